#include "tcast/config/hf_config.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/config/document.h"
#include "tcast/config/exchange.h"

namespace tcast {
namespace {

/// Keys of the text model's config in the config of a model with more towers.
constexpr std::string_view text_keys[] = {"text_config", "llm_config", "language_config"};

/// Keys of other towers' configs.
constexpr std::string_view tower_keys[] = {"vision_config", "visual", "audio_config",
                                           "vision_tower"};

/// Sizes that every decoder has: absent, they say that a config is not of the class.
constexpr std::string_view indispensable[] = {
    "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"};

constexpr std::size_t shown_bytes = 40;

constexpr std::int64_t max_size = std::int64_t{1} << 40;

/// Whether a value says "not there".
bool is_off(std::string_view json) {
  return json == "null" || json == "false" || json == "0" || json == "[]" || json == "{}" ||
         json == "\"\"";
}

template <class T>
T convert(const Node& node) {
  if constexpr (std::is_same_v<T, bool>) {
    return node.as_bool();
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return node.as_int();
  } else if constexpr (std::is_same_v<T, double>) {
    return node.as_number();
  } else if constexpr (std::is_same_v<T, std::string>) {
    return node.as_string();
  } else {
    T values;
    for (const Node& item : node.items()) values.push_back(convert<typename T::value_type>(item));
    return values;
  }
}

}  // namespace

/// What is known of a file: read marks by index of the node, and defaults that took the place of
/// absent keys; shared by the config of a file and those nested in it.
struct HfConfig::State {
  std::vector<bool> read;
  std::vector<std::string> defaults;
};

HfConfig::HfConfig(std::shared_ptr<State> state, Node root)
    : state_(std::move(state)), root_(std::move(root)) {}

HfConfig HfConfig::load(const std::string& name) {
  constexpr const char* own_name = "config.json";
  std::filesystem::path file = resolve_name(name);
  std::error_code failure;
  if (std::filesystem::is_directory(file, failure)) {
    if (!std::filesystem::exists(file / own_name, failure)) {
      throw Error(
          fmt::format("{}: the directory holds no config.json", printable(file.string(), 4096)),
          "name the config file itself");
    }
    file /= own_name;
  }
  HfConfig config = from_root(Node::load_json(file.string()));
  if (file.filename() == own_name) {
    config.folder_ = file.has_parent_path() ? file.parent_path().string() : ".";
  }
  return config;
}

HfConfig HfConfig::parse(std::string_view text, const std::string& file) {
  return from_root(Node::parse_json(text, file));
}

HfConfig HfConfig::from_root(Node root) {
  if (!root.is_map()) root.fail_expected("a map of keys and values");
  auto state = std::make_shared<State>();
  state->read.resize(root.document_->elements.size());
  return {std::move(state), std::move(root)};
}

HfConfig HfConfig::as_class(const ConfigClass& config_class, bool sizes) const {
  HfConfig config = *this;
  config.class_ = std::make_shared<const ConfigClass>(config_class);
  config.defaults_ = std::make_shared<const Node>(
      Node::parse_json(config_class.defaults, std::string(config_class.name)));
  config.has_sizes_ = sizes;
  return config;
}

HfConfig HfConfig::as_written() const {
  HfConfig config = *this;
  config.class_ = nullptr;
  config.defaults_ = nullptr;
  return config;
}

HfConfig HfConfig::text_part() const {
  std::optional<HfConfig> text;
  for (const std::string_view key : text_keys) {
    if (!text) text = nested(key);
  }
  const bool more = std::any_of(std::begin(tower_keys), std::end(tower_keys),
                                [this](std::string_view key) { return root_.find(key); });
  if (!text && !more) {
    throw Error(fmt::format("{}: --text-only was given, but there is no text_config", file()),
                "leave out --text-only");
  }
  // Some models keep the text model's sizes beside the config of the other towers.
  if (!text) text = *this;
  text->outer_ = std::make_shared<const HfConfig>(*this);
  return *std::move(text);
}

std::string HfConfig::model_type() const {
  if (const std::optional<Node> found = lookup("model_type")) return found->as_string();
  if (outer_ != nullptr) return outer_->model_type();
  if (const std::optional<Node> class_name = lookup("_class_name")) return class_name->as_string();
  fail("model_type", "expected the name of a model type, got nothing",
       "HuggingFace configs name it, as in \"model_type\": \"llama\"");
}

const std::string& HfConfig::file() const { return root_.file(); }

bool HfConfig::has(std::string_view key) const { return lookup(key).has_value(); }

bool HfConfig::is_null(std::string_view key) const {
  const std::vector<std::string_view> names = names_of(key);
  return reads(names.front()) && !lookup(key) &&
         std::any_of(names.begin(), names.end(),
                     [this](std::string_view name) { return root_.find(name).has_value(); });
}

template <class T>
std::optional<T> HfConfig::find(std::string_view key) const {
  const std::optional<Node> found = node(key);
  if (!found) return std::nullopt;
  return convert<T>(*found);
}

template <class T>
T HfConfig::get(std::string_view key) const {
  const std::optional<Node> found = node(key);
  if (!found) fail_missing(key);
  return convert<T>(*found);
}

template std::optional<bool> HfConfig::find(std::string_view) const;
template std::optional<std::int64_t> HfConfig::find(std::string_view) const;
template std::optional<double> HfConfig::find(std::string_view) const;
template std::optional<std::string> HfConfig::find(std::string_view) const;
template std::optional<std::vector<std::int64_t>> HfConfig::find(std::string_view) const;
template std::optional<std::vector<std::string>> HfConfig::find(std::string_view) const;
template bool HfConfig::get(std::string_view) const;
template std::int64_t HfConfig::get(std::string_view) const;
template double HfConfig::get(std::string_view) const;
template std::string HfConfig::get(std::string_view) const;
template std::vector<std::int64_t> HfConfig::get(std::string_view) const;
template std::vector<std::string> HfConfig::get(std::string_view) const;

std::int64_t HfConfig::get_size(std::string_view key) const {
  const std::optional<Node> found = node(key);
  if (!found) fail_missing(key);
  const std::int64_t size = found->as_int();
  if (size < 1 || size > max_size) {
    found->fail(fmt::format("expected a whole number from 1 to 2^40, got {}", size));
  }
  return size;
}

std::int64_t HfConfig::get_size_or(std::string_view key, std::int64_t otherwise) const {
  return node(key) ? get_size(key) : otherwise;
}

std::optional<HfConfig> HfConfig::nested(std::string_view key) const {
  std::optional<Node> found = lookup(key);
  if (!found) return std::nullopt;
  if (!found->is_map()) found->fail_expected("a map");
  // Of the whole model's config, which has read marks of its own.
  const bool own = found->document_ == root_.document_;
  HfConfig config(own ? state_ : outer_->state_, *std::move(found));
  config.folder_ = folder_;
  return config;
}

std::optional<Node> HfConfig::node(std::string_view key) const {
  std::optional<Node> found = lookup(key);
  if (found) mark_all(*found);
  return found ? found : default_of(key);
}

void HfConfig::know(std::initializer_list<std::string_view> keys) const {
  for (const std::string_view key : keys) {
    if (const std::optional<Node> found = lookup(key)) mark_all(*found);
  }
}

namespace {

/// A value as JSON, with the sizes whose dotted paths lead to a number that is there.
std::string text_with_sizes(const Node& value, const std::string& path, const ConfigSizes& sizes) {
  if (value.is_map()) {
    std::string text;
    for (const auto& [key, member] : value.members()) {
      text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", Node::json_string(key),
                          text_with_sizes(member, fmt::format("{}.{}", path, key), sizes));
    }
    return "{" + text + "}";
  }
  for (const auto& [key, size] : sizes) {
    if (key == path) return std::to_string(size);
  }
  return value.json_text();
}

}  // namespace

HfConfig HfConfig::with_sizes(const ConfigSizes& sizes) const {
  std::string text;
  const auto add = [&text](const std::string& key, const std::string& value) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : ",\n", Node::json_string(key), value);
  };
  std::vector<std::string> replaced;
  for (const auto& [key, size] : sizes) {
    if (key.find('.') != std::string::npos) continue;  // inside a map, below
    const std::vector<std::string_view> names = names_of(key);
    bool found = false;
    for (const std::string_view name : names) {
      const std::optional<Node> there = root_.find(name);
      if (!there || there->is_null()) continue;
      add(std::string(name), std::to_string(size));
      replaced.emplace_back(name);
      found = true;
    }
    if (found) continue;
    add(std::string(names.front()), std::to_string(size));
    replaced.emplace_back(names.front());
  }
  for (const auto& [key, value] : root_.members()) {
    if (std::find(replaced.begin(), replaced.end(), key) != replaced.end()) continue;
    add(key, text_with_sizes(value, key, sizes));
  }
  HfConfig config = parse(fmt::format("{{{}}}", text), file());
  config.folder_ = folder_;
  config.class_ = class_;
  config.defaults_ = defaults_;
  config.has_sizes_ = has_sizes_;
  config.outer_ = outer_;
  return config;
}

std::optional<CheckpointDtype> HfConfig::checkpoint_dtype() const {
  std::vector<Node> found;
  std::vector<const HfConfig*> configs;
  const bool is_whole = outer_ == nullptr || (outer_->root_.document_ == root_.document_ &&
                                              outer_->root_.index_ == root_.index_);
  if (!is_whole) configs.push_back(outer_.get());
  configs.push_back(this);
  for (const HfConfig* config : configs) {
    for (const char* key : {"dtype", "torch_dtype"}) {
      std::optional<Node> node = config->root_.find(key);
      if (!node || node->is_null()) continue;
      config->mark_all(*node);
      found.push_back(*std::move(node));
    }
  }
  if (found.empty()) return std::nullopt;
  const auto dtype_of = [](const Node& node) {
    const std::string text = node.as_string();
    const std::optional<DType> dtype = parse_dtype(text);
    if (dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) return *dtype;
    if (!dtype && text.find("float8") == std::string::npos) {
      node.fail_expected("an element type", "as in \"bfloat16\", \"float16\" or \"float32\"");
    }
    node.fail(
        fmt::format("'{}' would be the dtype of norms, embeddings and activations, too",
                    printable(text)),
        "a quantized checkpoint has a 16-bit dtype here and says in quantization_config which "
        "weights are stored otherwise; for quantized weights of your own use "
        "--quantize-linear, and --dtype in place of this key");
  };
  CheckpointDtype result;
  result.dtype = dtype_of(found[0]);
  for (std::size_t i = 1; i < found.size() && result.remark.empty(); ++i) {
    const DType other = dtype_of(found[i]);
    if (other == result.dtype) continue;
    const bool same_level = (found[0].path().find('.') == std::string::npos) ==
                            (found[i].path().find('.') == std::string::npos);
    result.remark = fmt::format(
        "{} {} counts, not {} {}{}", found[0].path(), tcast::name_of(result.dtype), found[i].path(),
        tcast::name_of(other),
        same_level ? ", as in transformers" : ", as in transformers 5 (4.57 reads the latter)");
  }
  return result;
}

std::vector<UnreadKey> HfConfig::unread() const {
  const std::vector<Element>& elements = root_.document_->elements;
  std::vector<UnreadKey> unread;
  // Children stand behind their parents, so one pass sees a map before its members.
  std::vector<bool> open(elements.size());
  open[0] = true;
  for (std::uint32_t i = 1; i < elements.size(); ++i) {
    const Element& element = elements[i];
    const Element& parent = elements[element.parent];
    if (!open[element.parent] || parent.kind != ElementKind::map) continue;
    if (state_->read[i]) {
      open[i] = true;
      continue;
    }
    const Node map(root_.document_, element.parent);
    const Node value(root_.document_, i);
    const std::string key(root_.document_->key_of(element));
    if (value.is_null() || is_known(map, key, value)) continue;
    UnreadKey& one = unread.emplace_back();
    one.path = value.path();
    one.key = printable(key, shown_bytes);
    one.of_model = map.index_ == root_.index_;
    one.value = printable(value.json_text(), shown_bytes);
  }
  return unread;
}

std::string HfConfig::closest_unset(const UnreadKey& key) const {
  if (class_ == nullptr || !key.of_model) return {};
  std::vector<std::string> unset = defaults_->keys();
  std::erase_if(unset, [this](const std::string& known) { return root_.find(known).has_value(); });
  return closest(key.key, unset);
}

bool HfConfig::is_known(const Node& map, std::string_view key, const Node& value) const {
  const std::string json = value.json_text();
  if (find_harmless(harmless_everywhere(), key, json) != nullptr) return true;
  const bool is_whole = map.index_ == 0;
  const bool is_class = map.index_ == root_.index_;
  if (is_whole || is_class) {
    const std::span<const CommonKey> every = keys_of_every_class();
    const bool known = std::any_of(every.begin(), every.end(), [key](const CommonKey& one) {
      return one.key == key && one.on_demand;
    });
    if (known) return true;
  }
  if (is_whole && outer_ != nullptr) {
    if (find_harmless(keys_of_other_towers(), key, json) != nullptr) return true;
    // The text model's own key, said again.
    const std::optional<Node> text = is_class ? std::nullopt : root_.find(key);
    if (text && text->json_text() == json) return true;
  }
  if (!is_class || class_ == nullptr) return false;
  const std::span<const ConfigKeyName> names = class_->attribute_map;
  return defaults_->find(key) || find_harmless(class_->harmless, key, json) != nullptr ||
         std::any_of(names.begin(), names.end(),
                     [key](const ConfigKeyName& one) { return one.name == key; });
}

std::vector<std::string> HfConfig::defaults_read() const { return state_->defaults; }

void HfConfig::fail(std::string_view key, std::string_view message, std::string hint) const {
  if (const std::optional<Node> found = lookup(key)) found->fail(message, std::move(hint));
  throw Error(fmt::format("{}: {}", place_of_missing(key), message), std::move(hint));
}

std::vector<std::string_view> HfConfig::names_of(std::string_view key) const {
  TCAST_CHECK(!key.empty(), "a key has at least one letter");
  if (class_ == nullptr) return {key};
  std::string_view own = key;
  for (const auto& list : {class_->asked_as, class_->attribute_map}) {
    for (const ConfigKeyName& one : list) {
      if (one.name == key) own = one.own;
    }
  }
  std::vector<std::string_view> names = {own};
  for (const ConfigKeyName& one : class_->attribute_map) {
    if (one.own == own) names.push_back(one.name);
  }
  return names;
}

bool HfConfig::reads(std::string_view key) const {
  const std::string_view own = names_of(key).front();
  if (class_ == nullptr || defaults_->find(own)) return true;
  const std::span<const CommonKey> every = keys_of_every_class();
  return std::any_of(every.begin(), every.end(),
                     [own](const CommonKey& one) { return one.key == own; });
}

std::optional<Node> HfConfig::lookup(std::string_view key) const {
  const std::vector<std::string_view> names = names_of(key);
  if (!reads(names.front())) return std::nullopt;
  std::optional<Node> found;
  for (const std::string_view name : names) {
    std::optional<Node> candidate = root_.find(name);
    if (!candidate) continue;
    state_->read[candidate->index_] = true;
    if (candidate->is_null()) continue;
    if (found && candidate->json_text() != found->json_text()) {
      candidate->fail(fmt::format("{} contradicts {} {}: two names of one setting",
                                  printable(candidate->json_text(), shown_bytes), found->path(),
                                  printable(found->json_text(), shown_bytes)),
                      "remove one of the two");
    }
    if (!found) found = std::move(candidate);
  }
  if (outer_ == nullptr) return found;
  if (key == "quantization_config" || key == "compression_config") {
    std::optional<Node> whole = outer_->lookup(key);
    if (!found) return whole;
  }
  if (key == "tie_word_embeddings") {
    // Tied if either says so, as transformers 5 has it.
    const std::optional<Node> whole = outer_->lookup(key);
    if (!found || (whole && whole->json_text() == "true")) return whole ? whole : found;
  }
  return found;
}

std::optional<Node> HfConfig::default_of(std::string_view key) const {
  if (defaults_ == nullptr || is_null(key)) return std::nullopt;
  const std::string_view own = names_of(key).front();
  const bool is_size =
      std::find(std::begin(indispensable), std::end(indispensable), key) != std::end(indispensable);
  if (is_size && !has_sizes_) return std::nullopt;
  std::optional<Node> found = defaults_->find(own);
  if (!found || found->is_null()) return std::nullopt;
  const std::string json = found->json_text();
  const std::string text = fmt::format("{} {}", own, json);
  std::vector<std::string>& read = state_->defaults;
  if (!is_off(json) && std::find(read.begin(), read.end(), text) == read.end()) {
    read.push_back(text);
  }
  return found;
}

void HfConfig::mark_all(const Node& node) const {
  const bool own = node.document_ == root_.document_;
  if (!own) return outer_ == nullptr ? void() : outer_->mark_all(node);
  const std::vector<Element>& elements = node.document_->elements;
  state_->read[node.index_] = true;
  // What is below a node stands directly behind it.
  for (std::uint32_t i = node.index_ + 1; i < elements.size(); ++i) {
    if (elements[i].parent == Element::none || elements[i].parent < node.index_) return;
    state_->read[i] = true;
  }
}

std::string HfConfig::place_of_missing(std::string_view key) const {
  const std::string path = root_.path();
  return fmt::format("{}: {}{}{}", file(), path, path.empty() ? "" : ".", key);
}

void HfConfig::fail_missing(std::string_view key) const {
  const std::vector<std::string_view> names = names_of(key);
  for (const std::string_view name : names) {
    if (const std::optional<Node> null = root_.find(name)) null->fail_expected("a value");
  }
  std::vector<std::string> others;
  for (std::size_t i = 1; i < names.size(); ++i) others.emplace_back(names[i]);
  const std::string also =
      others.empty() ? "" : fmt::format("; it may also be called {}", join(others, ", "));
  const std::string near = did_you_mean(names.front(), root_.keys());
  throw Error(fmt::format("{}: required key is missing{}", place_of_missing(names.front()), also),
              near);
}

}  // namespace tcast
