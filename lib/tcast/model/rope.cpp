#include "tcast/model/rope.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "tcast/base/text.h"

namespace tcast {

std::vector<Attribute> RopeParameters::attributes() const {
  std::vector<Attribute> list = {{"rope_type", type}, {"rope_theta", theta}};
  if (type == "default") return list;
  list.push_back({"factor", factor});
  if (type == "dynamic") list.push_back({"max_position_embeddings", max_position_embeddings});
  if (original_max_position_embeddings > 0) {
    list.push_back({"original_max_position_embeddings", original_max_position_embeddings});
  }
  if (type == "llama3") {
    list.push_back({"low_freq_factor", low_freq_factor});
    list.push_back({"high_freq_factor", high_freq_factor});
  }
  if (type == "yarn") {
    list.push_back({"beta_fast", beta_fast});
    list.push_back({"beta_slow", beta_slow});
    if (!truncate) list.push_back({"truncate", truncate});
    if (mscale != 0) list.push_back({"mscale", mscale});
    if (mscale_all_dim != 0) list.push_back({"mscale_all_dim", mscale_all_dim});
  }
  if (attention_factor) list.push_back({"attention_factor", *attention_factor});
  return list;
}

// --- reading -------------------------------------------------------------------------------------

namespace {

const std::vector<std::string> known_types = {"default", "linear", "dynamic",
                                              "llama3",  "yarn",   "longrope"};

void require_positive(const HfConfig& config, std::string_view key, double value) {
  if (std::isfinite(value) && value > 0) return;
  config.fail(key, fmt::format("expected a number above 0, got {}", value));
}

/// One or two maps of rope parameters, of which the first that has a key counts.
class ScalingMaps {
 public:
  ScalingMaps(const HfConfig& config, std::string_view layer_type) : config_(config) {
    const auto scaling = map_of(config, "rope_scaling");
    const auto parameters = map_of(config, "rope_parameters");
    if (layer_type.empty()) {
      if (scaling) add("rope_scaling", *scaling);
      if (!scaling && parameters) add("rope_parameters", *parameters);
      return;
    }
    if (scaling && layer_type == "full_attention") add("rope_scaling", *scaling);
    if (!parameters) return;
    if (const auto own = parameters->nested(layer_type)) add("rope_parameters", *own);
  }

  bool empty() const { return maps_.empty(); }
  bool has(std::string_view key) const { return find_map(key) != nullptr; }

  template <class T>
  std::optional<T> find(std::string_view key) const {
    const HfConfig* const map = find_map(key);
    return map == nullptr ? std::nullopt : map->find<T>(key);
  }
  template <class T>
  T get(std::string_view key) const {
    const HfConfig* const map = find_map(key);
    return (map == nullptr ? maps_.front() : *map).template get<T>(key);
  }

  /// Checks a number that was read from here, or else from the config itself.
  void require_positive(std::string_view key, double value) const {
    const HfConfig* const map = find_map(key);
    tcast::require_positive(map == nullptr ? config_ : *map, key, value);
  }

  [[noreturn]] void fail(std::string_view message, std::string hint = {}) const {
    config_.fail(name_, message, std::move(hint));
  }

  std::vector<double> factors(const char* key) const {
    const HfConfig* const map = find_map(key);
    if (map == nullptr) maps_.front().fail(key, "longrope needs a factor for each frequency");
    std::vector<double> factors;
    for (const Node& item : map->node(key)->items()) {
      factors.push_back(item.as_number());
      if (!(factors.back() > 0)) item.fail_expected("a number above 0");
    }
    return factors;
  }

 private:
  /// Nothing for an empty map, which says as much.
  static std::optional<HfConfig> map_of(const HfConfig& config, std::string_view key) {
    std::optional<HfConfig> map = config.nested(key);
    if (map && map->members().empty()) return std::nullopt;
    return map;
  }

  void add(const char* name, const HfConfig& map) {
    if (maps_.empty()) name_ = name;
    maps_.push_back(map);
    // What only some of the types read.
    map.know({"type", "rope_type", "factor", "attention_factor", "beta_fast", "beta_slow",
              "high_freq_factor", "long_factor", "low_freq_factor", "mrope_section", "mscale",
              "mscale_all_dim", "original_max_position_embeddings", "partial_rotary_factor",
              "rope_theta", "short_factor", "truncate"});
  }

  const HfConfig* find_map(std::string_view key) const {
    for (const HfConfig& map : maps_) {
      if (map.has(key)) return &map;
    }
    return nullptr;
  }

  const HfConfig& config_;
  const char* name_ = "rope_scaling";
  std::vector<HfConfig> maps_;
};

/// What the types with a stretched context need: the length that the model was trained for and how
/// much longer it became.
void read_stretch(const HfConfig& config, const ScalingMaps& scaling, RopeParameters& rope) {
  // Phi-3 keeps the length outside the map; there it counts first.
  constexpr const char* original_key = "original_max_position_embeddings";
  auto original = config.as_written().find<double>(original_key);
  if (!original) original = config.find<double>(original_key);
  if (!original) original = scaling.find<double>(original_key);
  rope.original_max_position_embeddings =
      original ? *original : config.get<double>("max_position_embeddings");
  scaling.require_positive(original ? original_key : "max_position_embeddings",
                           rope.original_max_position_embeddings);
  if (rope.type != "llama3" && !scaling.has("factor")) {
    rope.factor =
        config.get<double>("max_position_embeddings") / rope.original_max_position_embeddings;
  } else {
    rope.factor = scaling.get<double>("factor");
  }
}

/// Types whose factor is not part of max_position_embeddings say it of the original length, or, as
/// engines take it, of max_position_embeddings itself.
double context_limit_of(const RopeParameters& rope, const ScalingMaps& scaling, double positions) {
  if (rope.type == "yarn") {
    return std::max(positions, rope.original_max_position_embeddings * rope.factor);
  }
  if (rope.type != "linear" && rope.type != "dynamic") return positions;
  const auto original = scaling.find<double>("original_max_position_embeddings");
  return original ? std::max(positions, *original * rope.factor) : positions * rope.factor;
}

}  // namespace

RopeParameters read_rope(const HfConfig& config, std::string_view layer_type,
                         std::string_view theta_key) {
  RopeParameters rope;
  const ScalingMaps scaling(config, layer_type);
  const auto positions = config.find<double>("max_position_embeddings");
  rope.context_limit = positions.value_or(0);
  const auto own_theta = scaling.find<double>("rope_theta");
  rope.theta = own_theta ? *own_theta : config.find<double>(theta_key).value_or(10000);
  if (own_theta) {
    scaling.require_positive("rope_theta", rope.theta);
  } else {
    require_positive(config, theta_key, rope.theta);
  }
  if (scaling.empty()) return rope;
  config.know({theta_key});
  rope.type = scaling.find<std::string>("rope_type")
                  .value_or(scaling.find<std::string>("type").value_or("default"));
  if (rope.type == "su") rope.type = "longrope";  // its name in the first Phi-3 files
  // The three positions of a token that is no part of a picture are one.
  if (rope.type == "mrope") rope.type = "default";
  if (std::find(known_types.begin(), known_types.end(), rope.type) == known_types.end()) {
    scaling.fail(
        fmt::format("'{}' is not a kind of rope scaling that tcast knows", printable(rope.type)),
        did_you_mean(rope.type, known_types, fmt::format("known are {}", join(known_types, ", "))));
  }
  if (rope.type == "default") return rope;
  if (rope.type == "linear" || rope.type == "dynamic") {
    rope.factor = scaling.get<double>("factor");
  } else {
    read_stretch(config, scaling, rope);
  }
  scaling.require_positive("factor", rope.factor);
  if (rope.type == "dynamic") {
    rope.max_position_embeddings = config.get<double>("max_position_embeddings");
    require_positive(config, "max_position_embeddings", rope.max_position_embeddings);
  }
  const auto number = [&scaling](const char* key, double& field) {
    field = scaling.find<double>(key).value_or(field);
  };
  number("low_freq_factor", rope.low_freq_factor);
  number("high_freq_factor", rope.high_freq_factor);
  number("beta_fast", rope.beta_fast);
  number("beta_slow", rope.beta_slow);
  number("mscale", rope.mscale);
  number("mscale_all_dim", rope.mscale_all_dim);
  rope.truncate = scaling.find<bool>("truncate").value_or(true);
  rope.attention_factor = scaling.find<double>("attention_factor");
  if (rope.type == "longrope") {
    rope.short_factor = scaling.factors("short_factor");
    rope.long_factor = scaling.factors("long_factor");
  }
  rope.context_limit = context_limit_of(rope, scaling, rope.context_limit);
  return rope;
}

// --- frequencies ---------------------------------------------------------------------------------

namespace {

/// base ^ (2 i / dim) for each pair i: the wavelengths over 2 pi.
std::vector<float> powers(float base, std::int64_t dim) {
  std::vector<float> result(static_cast<std::size_t>((dim + 1) / 2));
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = std::pow(base, static_cast<float>(2 * i) / static_cast<float>(dim));
  }
  return result;
}

std::vector<float> plain(float base, std::int64_t dim) {
  std::vector<float> result = powers(base, dim);
  for (float& value : result) value = 1.0F / value;
  return result;
}

/// A larger base the further the sequence is beyond the trained length.
std::vector<float> dynamic(const RopeParameters& rope, std::int64_t dim,
                           std::int64_t sequence_length) {
  const auto base = static_cast<float>(rope.theta);
  if (static_cast<double>(sequence_length) <= rope.max_position_embeddings) return plain(base, dim);
  const double exponent = static_cast<double>(dim) / static_cast<double>(dim - 2);
  const float stretch = static_cast<float>(rope.factor) * static_cast<float>(sequence_length) /
                            static_cast<float>(rope.max_position_embeddings) -
                        static_cast<float>(rope.factor - 1);
  return plain(base * std::pow(stretch, static_cast<float>(exponent)), dim);
}

/// Long wavelengths are stretched, short ones are not, those between a little.
std::vector<float> llama3(const RopeParameters& rope, std::int64_t dim) {
  std::vector<float> result = plain(static_cast<float>(rope.theta), dim);
  const double length = rope.original_max_position_embeddings;
  const auto longest = static_cast<float>(length / rope.low_freq_factor);
  const auto shortest = static_cast<float>(length / rope.high_freq_factor);
  const auto factor = static_cast<float>(rope.factor);
  for (float& value : result) {
    const float wavelength = 1.0F / value * static_cast<float>(2 * M_PI);
    if (wavelength < shortest) continue;
    if (wavelength > longest) {
      value /= factor;
      continue;
    }
    const float smooth = (1.0F / wavelength * static_cast<float>(length) -
                          static_cast<float>(rope.low_freq_factor)) /
                         static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
    value = (1.0F - smooth) * value / factor + smooth * value;
  }
  return result;
}

/// A ramp over the pairs from untouched (those that turn often within the trained length) to
/// stretched.
std::vector<float> yarn(const RopeParameters& rope, std::int64_t dim) {
  auto pair_that_turns = [&](double rotations) {
    return static_cast<double>(dim) *
           std::log(rope.original_max_position_embeddings / (rotations * 2 * M_PI)) /
           (2 * std::log(rope.theta));
  };
  double low = pair_that_turns(rope.beta_fast);
  double high = pair_that_turns(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;

  std::vector<float> result = powers(static_cast<float>(rope.theta), dim);
  for (std::size_t i = 0; i < result.size(); ++i) {
    const float untouched = 1.0F / result[i];
    const float stretched = 1.0F / (static_cast<float>(rope.factor) * result[i]);
    const float along =
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float keep = 1.0F - std::clamp(along, 0.0F, 1.0F);
    result[i] = stretched * (1.0F - keep) + untouched * keep;
  }
  return result;
}

std::vector<float> longrope(const RopeParameters& rope, std::int64_t dim,
                            std::int64_t sequence_length) {
  const bool beyond = static_cast<double>(sequence_length) > rope.original_max_position_embeddings;
  const std::vector<double>& factors = beyond ? rope.long_factor : rope.short_factor;
  std::vector<float> result = powers(static_cast<float>(rope.theta), dim);
  TCAST_CHECK(factors.size() == result.size(), "one longrope factor per frequency");
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = 1.0F / (static_cast<float>(factors[i]) * result[i]);
  }
  return result;
}

/// The factor on cos and sin that follows from the other parameters.
double default_attention_factor(const RopeParameters& rope) {
  if (rope.type == "yarn") {
    if (rope.mscale == 0 || rope.mscale_all_dim == 0) return yarn_mscale(rope.factor, 1);
    return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim);
  }
  if (rope.type == "longrope" && rope.factor > 1) {
    return std::sqrt(1 + std::log(rope.factor) / std::log(rope.original_max_position_embeddings));
  }
  return 1;
}

}  // namespace

std::vector<float> inverse_frequencies(const RopeParameters& rope, std::int64_t rotary_dim,
                                       std::int64_t sequence_length, double& attention_factor) {
  attention_factor = 1;
  if (rope.type == "yarn" || rope.type == "longrope") {
    attention_factor = rope.attention_factor.value_or(default_attention_factor(rope));
  }
  if (rope.type == "dynamic") return dynamic(rope, rotary_dim, sequence_length);
  if (rope.type == "llama3") return llama3(rope, rotary_dim);
  if (rope.type == "yarn") return yarn(rope, rotary_dim);
  if (rope.type == "longrope") return longrope(rope, rotary_dim, sequence_length);
  std::vector<float> result = plain(static_cast<float>(rope.theta), rotary_dim);
  if (rope.type == "linear") {
    for (float& value : result) value /= static_cast<float>(rope.factor);
  }
  return result;
}

double yarn_mscale(double factor, double mscale) {
  if (factor <= 1) return 1;
  return 0.1 * mscale * std::log(factor) + 1;
}

}  // namespace tcast
