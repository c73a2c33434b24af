#include "tcast/device/device_profile.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/embedded.h"
#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {
namespace {

using Names = std::vector<std::string>;

// --- reading -------------------------------------------------------------------------------------

/// Throws for the first key of `map` that is not in `known`.
void reject_unknown(const Node& map, const Names& known) {
  for (const std::string& key : map.keys()) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    map.at(key).fail("unknown key",
                     did_you_mean(key, known, fmt::format("known here: {}", join(known, ", "))));
  }
}

double number_in(const Node& node, double least, bool least_allowed, double most,
                 std::string_view expected) {
  const double value = node.as_number();
  const bool low = least_allowed ? value >= least : value > least;
  if (!low || !(value <= most)) node.fail_expected(expected);  // also what is not a number
  return value;
}

double rate(const Node& node) {
  constexpr double most = 1e24;
  return number_in(node, 0, false, most, "a rate above 0");
}

double share(const Node& node) {
  return number_in(node, 0, false, 1, "a share above 0 and at most 1");
}

double duration(const Node& node) {
  return number_in(node, 0, true, 1, "a time of 0 to 1 seconds");
}

template <class Enum>
Enum choice(const Node& node, std::initializer_list<Enum> values) {
  const std::string text = node.as_string();
  Names names;
  for (const Enum value : values) {
    if (text == name_of(value)) return value;
    names.emplace_back(name_of(value));
  }
  node.fail_expected(fmt::format("one of {}", join(names, ", ")), did_you_mean(text, names));
}

Source read_basis(const Node& group) {
  return choice(group.at("basis"),
                {Source::measured, Source::calibrated, Source::datasheet, Source::assumed});
}

/// A number without a source is somebody's memory; so every group must have one.
std::string read_source(const Node& group) {
  const std::optional<Node> source = group.find("source");
  if (!source) {
    group.fail("numbers without a source",
               "add 'source:' with the document or the measurement that they come from");
  }
  std::string text = source->as_string();
  if (text.empty()) source->fail_expected("where the numbers come from");
  return text;
}

PeakFlops read_peaks(const Node& node) {
  Names known;
  for (int i = 0; i < dtype_count; ++i) {
    known.emplace_back(short_name_of(static_cast<DType>(i)));
  }
  known.insert(known.end(), {"basis", "source"});
  reject_unknown(node, known);
  PeakFlops peaks;
  peaks.basis = read_basis(node);
  peaks.source = read_source(node);
  for (int i = 0; i < dtype_count; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (const auto value = node.find(short_name_of(dtype))) peaks[dtype] = rate(*value);
  }
  return peaks;
}

/// Fields that a class does not give are those of `base`; its basis and source never are.
ClassEfficiency read_class(const Node& node, const ClassEfficiency* base) {
  reject_unknown(node,
                 {"compute", "memory", "overhead_s", "smooth_max", "products", "basis", "source"});
  ClassEfficiency result;
  if (base != nullptr) result = *base;
  const auto field = [&](std::string_view key, double& target, double (*read)(const Node&)) {
    if (const auto value = node.find(key)) {
      target = read(*value);
    } else if (base == nullptr) {
      node.at(key);  // throws: the default has to be complete
    }
  };
  field("compute", result.compute, share);
  field("memory", result.memory, share);
  field("overhead_s", result.overhead_s, duration);
  field("smooth_max", result.smooth_max, [](const Node& value) {
    return number_in(value, 1, true, INFINITY, "an exponent of at least 1 (.inf: plain maximum)");
  });
  if (const auto products = node.find("products")) {
    Names known;
    for (int i = 0; i < dtype_count; ++i) {
      known.emplace_back(short_name_of(static_cast<DType>(i)));
    }
    reject_unknown(*products, known);
    for (std::size_t i = 0; i < known.size(); ++i) {
      const auto given = products->find(known[i]);
      if (!given) continue;
      reject_unknown(*given, {"compute", "memory"});
      result.products[i] = DTypeEfficiency{share(given->at("compute")), share(given->at("memory"))};
    }
  }
  result.basis = read_basis(node);
  result.source = read_source(node);
  return result;
}

void read_efficiency(const Node& node, DeviceProfile& device) {
  Names known = {"default"};
  for (int i = 0; i < op_class_count; ++i) {
    known.emplace_back(name_of(static_cast<OpClass>(i)));
  }
  reject_unknown(node, known);
  const ClassEfficiency base = read_class(node.at("default"), nullptr);
  for (int i = 0; i < op_class_count; ++i) {
    const auto given = node.find(name_of(static_cast<OpClass>(i)));
    device.efficiency[static_cast<std::size_t>(i)] = given ? read_class(*given, &base) : base;
  }
  // Profiles that do not tell products of few rows from others mean both.
  const auto same = [&](OpClass few, OpClass many) {
    if (node.find(name_of(few))) return;
    device.efficiency[static_cast<std::size_t>(few)] = device.efficiency_of(many);
  };
  same(OpClass::matvec, OpClass::matmul);
  same(OpClass::grouped_matvec, OpClass::grouped_matmul);
  same(OpClass::decode_attention, OpClass::attention);
}

Interconnect read_interconnect(const Node& node) {
  Interconnect interconnect;
  if (node.items().size() > Interconnect::max_levels) {
    node.fail_expected(fmt::format("at most {} levels", Interconnect::max_levels));
  }
  for (const Node& item : node.items()) {
    reject_unknown(item, {"name", "kind", "devices", "bandwidth_bytes_per_s", "efficiency",
                          "latency_s", "basis", "source"});
    InterconnectLevel level;
    level.name = item.at("name").as_string();
    level.kind = choice(item.at("kind"),
                        {LinkKind::clos, LinkKind::full_mesh, LinkKind::ring, LinkKind::crossbar});
    const Node devices = item.at("devices");
    level.devices = devices.as_int();
    const std::int64_t inner = interconnect.devices();
    constexpr std::int64_t most = 1'000'000'000;
    if (level.devices <= inner || level.devices % inner != 0 || level.devices > most) {
      devices.fail_expected(inner == 1
                                ? fmt::format("2 to {} devices", most)
                                : fmt::format("a multiple of the {} devices of the level inside "
                                              "it, at most {}",
                                              inner, most));
    }
    level.bandwidth_bytes_per_s = rate(item.at("bandwidth_bytes_per_s"));
    level.efficiency = share(item.at("efficiency"));
    level.latency_s = duration(item.at("latency_s"));
    level.basis = read_basis(item);
    level.source = read_source(item);
    interconnect.levels.push_back(std::move(level));
  }
  return interconnect;
}

// --- writing -------------------------------------------------------------------------------------

/// The shortest decimal that is read back as the same number.
std::string number_text(double value) {
  return std::isinf(value) ? ".inf" : fmt::format("{}", value);
}

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    if (c == '\n') {
      result += "\\n";
    } else {
      result += c;
    }
  }
  return result + "\"";
}

std::string peaks_text(std::string_view name, const PeakFlops& peaks) {
  std::string text = fmt::format("  {}:\n", name);
  for (int i = 0; i < dtype_count; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (peaks[dtype] > 0) {
      text += fmt::format("    {}: {}\n", short_name_of(dtype), number_text(peaks[dtype]));
    }
  }
  return text +
         fmt::format("    basis: {}\n    source: {}\n", name_of(peaks.basis), quoted(peaks.source));
}

std::string class_text(std::string_view name, const ClassEfficiency& values) {
  std::string text = fmt::format(
      "  {}:\n    compute: {}\n    memory: {}\n    overhead_s: {}\n    smooth_max: {}\n", name,
      number_text(values.compute), number_text(values.memory), number_text(values.overhead_s),
      number_text(values.smooth_max));
  std::string products;
  for (int i = 0; i < dtype_count; ++i) {
    const auto dtype = static_cast<DType>(i);
    const auto& given = values.products[static_cast<std::size_t>(i)];
    if (!given) continue;
    products += fmt::format("      {}: {{compute: {}, memory: {}}}\n", short_name_of(dtype),
                            number_text(given->compute), number_text(given->memory));
  }
  if (!products.empty()) text += "    products:\n" + products;
  return text + fmt::format("    basis: {}\n    source: {}\n", name_of(values.basis),
                            quoted(values.source));
}

// --- names ---------------------------------------------------------------------------------------

/// What counts of a device's name.
std::string normalized(std::string_view name) {
  std::string result;
  for (const char c : name) {
    if (c == '-' || c == '_' || c == ' ') continue;
    result += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return result;
}

}  // namespace

EffectivePeak DeviceProfile::matrix_peak(DType dtype) const {
  while (matrix[dtype] <= 0 && dtype != DType::f32) {
    switch (dtype) {
      case DType::i4:
        dtype = DType::i8;
        break;
      case DType::i8:
      case DType::u8:
      case DType::f8_e4m3:
      case DType::f8_e5m2:
        // The two 8-bit floats have one rate on every device so far.
        if (dtype == DType::f8_e5m2 && matrix[DType::f8_e4m3] > 0) {
          dtype = DType::f8_e4m3;
        } else {
          dtype = dtype == DType::u8 && matrix[DType::i8] > 0 ? DType::i8 : DType::bf16;
        }
        break;
      case DType::f16:
        dtype = matrix[DType::bf16] > 0 ? DType::bf16 : DType::f32;
        break;
      case DType::bf16:
        dtype = matrix[DType::f16] > 0 ? DType::f16 : DType::f32;
        break;
      default:
        dtype = DType::f32;
    }
  }
  return matrix[dtype] > 0 ? EffectivePeak{matrix[dtype], dtype} : vector_peak(DType::f32);
}

EffectivePeak DeviceProfile::vector_peak(DType dtype) const {
  if (vector[dtype] > 0) return {vector[dtype], dtype};
  return {vector[DType::f32], DType::f32};
}

DeviceProfile read_device(const Node& root) {
  reject_unknown(root,
                 {"name", "description", "peak_flops", "memory", "efficiency", "interconnect"});
  DeviceProfile device;
  device.name = root.at("name").as_string();
  if (normalized(device.name).empty()) root.at("name").fail_expected("a name");
  if (const auto text = root.find("description")) device.description = text->as_string();

  const Node peaks = root.at("peak_flops");
  reject_unknown(peaks, {"matrix", "vector"});
  if (const auto matrix = peaks.find("matrix")) device.matrix = read_peaks(*matrix);
  const Node vector = peaks.at("vector");
  device.vector = read_peaks(vector);
  if (device.vector[DType::f32] <= 0) {
    vector.fail("expected the key 'f32'", "the peak that every other dtype can fall back to");
  }

  const Node memory = root.at("memory");
  reject_unknown(memory, {"size_bytes", "bandwidth_bytes_per_s", "basis", "source", "cache"});
  const Node size = memory.at("size_bytes");
  device.memory_bytes = size.as_int();
  if (device.memory_bytes <= 0) size.fail_expected("a size above 0");
  device.memory_bandwidth_bytes_per_s = rate(memory.at("bandwidth_bytes_per_s"));
  device.memory_basis = read_basis(memory);
  device.memory_source = read_source(memory);
  if (const auto cache = memory.find("cache")) {
    reject_unknown(*cache, {"size_bytes", "bandwidth_bytes_per_s", "basis", "source"});
    const Node cache_size = cache->at("size_bytes");
    device.cache_bytes = cache_size.as_int();
    if (device.cache_bytes <= 0) cache_size.fail_expected("a size above 0");
    const Node bandwidth = cache->at("bandwidth_bytes_per_s");
    device.cache_bandwidth_bytes_per_s = rate(bandwidth);
    if (device.cache_bandwidth_bytes_per_s < device.memory_bandwidth_bytes_per_s) {
      bandwidth.fail_expected("at least the bandwidth of the memory");
    }
    device.cache_basis = read_basis(*cache);
    device.cache_source = read_source(*cache);
  }

  read_efficiency(root.at("efficiency"), device);
  if (const auto levels = root.find("interconnect")) {
    device.interconnect = read_interconnect(*levels);
  }
  return device;
}

std::string to_yaml(const DeviceProfile& device) {
  std::string text = fmt::format("name: {}\ndescription: {}\n\npeak_flops:\n", quoted(device.name),
                                 quoted(device.description));
  if (!device.matrix.source.empty()) text += peaks_text("matrix", device.matrix);
  text += peaks_text("vector", device.vector);
  text += fmt::format(
      "\nmemory:\n  size_bytes: {}\n  bandwidth_bytes_per_s: {}\n  basis: {}\n  source: {}\n",
      device.memory_bytes, number_text(device.memory_bandwidth_bytes_per_s),
      name_of(device.memory_basis), quoted(device.memory_source));
  if (device.cache_bytes > 0) {
    text += fmt::format(
        "  cache:\n    size_bytes: {}\n    bandwidth_bytes_per_s: {}\n    basis: {}\n    source: "
        "{}\n",
        device.cache_bytes, number_text(device.cache_bandwidth_bytes_per_s),
        name_of(device.cache_basis), quoted(device.cache_source));
  }
  text += "\nefficiency:\n";
  // Every class is written out, so the default only has to be there.
  text += class_text("default", device.efficiency_of(OpClass::custom));
  for (int i = 0; i < op_class_count; ++i) {
    const auto op_class = static_cast<OpClass>(i);
    text += class_text(name_of(op_class), device.efficiency_of(op_class));
  }
  if (device.interconnect.levels.empty()) return text;
  text += "\ninterconnect:\n";
  for (const InterconnectLevel& level : device.interconnect.levels) {
    text += fmt::format(
        "  - name: {}\n    kind: {}\n    devices: {}\n    bandwidth_bytes_per_s: {}\n"
        "    efficiency: {}\n    latency_s: {}\n    basis: {}\n    source: {}\n",
        quoted(level.name), name_of(level.kind), level.devices,
        number_text(level.bandwidth_bytes_per_s), number_text(level.efficiency),
        number_text(level.latency_s), name_of(level.basis), quoted(level.source));
  }
  return text;
}

// --- devices by name -----------------------------------------------------------------------------

namespace {

/// The entry that a name means, or null.
const RegistryEntry<DeviceFunction>* find_device(std::string_view name) {
  const auto [scope, rest] = split_scope(name);
  for (const auto* entry : devices().entries()) {
    if (scope.empty() ? !entry->scope.empty() : entry->scope_name() != scope) continue;
    if (!is_literal_pattern(entry->pattern) || !same_device(entry->pattern, rest)) continue;
    // Whether it is there twice, or belongs to a plugin that failed.
    return devices().find(fmt::format("{}::{}", entry->scope_name(), entry->pattern));
  }
  return devices().find_of_plugin(name);
}

[[noreturn]] void fail_unknown_device(std::string_view name) {
  // Compared as people compare them, shown as they are written.
  const Names names = devices().names();
  Names comparable;
  for (const std::string& known : names) comparable.push_back(normalized(known));
  const std::string near = closest(normalized(name), comparable);
  const std::string plugin = missing_plugin_hint("device", name);
  std::string hint = fmt::format("{}{}known devices: {}; or give the path of a device YAML", plugin,
                                 plugin.empty() ? "" : "; ", join(names, ", "));
  for (std::size_t i = 0; i < names.size() && !near.empty(); ++i) {
    if (comparable[i] == near) hint = fmt::format("did you mean '{}'? {}", names[i], hint);
  }
  throw Error(fmt::format("unknown device '{}'", printable(name)), hint);
}

// --- devices of plugins --------------------------------------------------------------------------

/// Refuses numbers of a device that nothing can be computed with.
class DeviceCheck {
 public:
  explicit DeviceCheck(const Registered& by) : by_(by) {}

  void rate(std::string_view name, double value) const {
    require(name, value, value > 0 && value <= 1e24, "a rate above 0");
  }
  void share(std::string_view name, double value) const {
    require(name, value, value > 0 && value <= 1, "a share above 0 and at most 1");
  }
  void duration(std::string_view name, double value) const {
    require(name, value, value >= 0 && value <= 1, "a time of 0 to 1 seconds");
  }
  void require(std::string_view name, double value, bool holds, std::string_view expected) const {
    if (!holds) by_.refuse(fmt::format("its {} is {}, expected {}", name, value, expected));
  }
  void source(Source basis) const {
    if (basis > Source::assumed) by_.refuse("it has a basis that there is none of");
  }

  void peaks(std::string_view unit, const PeakFlops& peaks) const {
    source(peaks.basis);
    for (int i = 0; i < dtype_count; ++i) {
      const auto dtype = static_cast<DType>(i);
      if (peaks[dtype] != 0) rate(fmt::format("{} peak of {}", unit, name_of(dtype)), peaks[dtype]);
    }
  }

  void efficiency(OpClass op_class, const ClassEfficiency& values) const {
    const std::string_view name = name_of(op_class);
    source(values.basis);
    share(fmt::format("{} compute efficiency", name), values.compute);
    share(fmt::format("{} memory efficiency", name), values.memory);
    duration(fmt::format("{} overhead_s", name), values.overhead_s);
    require(fmt::format("{} smooth_max", name), values.smooth_max, values.smooth_max >= 1,
            "an exponent of at least 1");
    for (const auto& product : values.products) {
      if (!product) continue;
      share(fmt::format("{} compute efficiency", name), product->compute);
      share(fmt::format("{} memory efficiency", name), product->memory);
    }
  }

  void interconnect(const Interconnect& levels) const {
    if (levels.levels.size() > Interconnect::max_levels) {
      by_.refuse(fmt::format("it has {} levels of interconnect, expected at most {}",
                             levels.levels.size(), Interconnect::max_levels));
    }
    std::int64_t inner = 1;
    for (const InterconnectLevel& level : levels.levels) {
      source(level.basis);
      const std::string name = fmt::format("interconnect '{}'", printable(level.name));
      if (level.kind > LinkKind::crossbar) by_.refuse(name + " has a kind that there is none of");
      require(name + " size", static_cast<double>(level.devices),
              level.devices > inner && level.devices % inner == 0 && level.devices <= 1'000'000'000,
              fmt::format("a multiple of the {} device(s) inside it", inner));
      rate(name + " bandwidth_bytes_per_s", level.bandwidth_bytes_per_s);
      share(name + " efficiency", level.efficiency);
      duration(name + " latency_s", level.latency_s);
      inner = level.devices;
    }
  }

 private:
  const Registered& by_;
};

}  // namespace

DeviceProfile Checked<DeviceProfile>::of(const Registered& by, DeviceProfile device) {
  const DeviceCheck check(by);
  if (normalized(device.name).empty()) by.refuse("it has no name", "set DeviceProfile::name");
  check.peaks("matrix", device.matrix);
  check.peaks("vector", device.vector);
  check.rate("vector peak of float32", device.vector[DType::f32]);
  check.require("memory_bytes", static_cast<double>(device.memory_bytes), device.memory_bytes > 0,
                "a size above 0");
  check.rate("memory_bandwidth_bytes_per_s", device.memory_bandwidth_bytes_per_s);
  check.source(device.memory_basis);
  check.require("cache_bytes", static_cast<double>(device.cache_bytes), device.cache_bytes >= 0,
                "a size of at least 0");
  check.source(device.cache_basis);
  if (device.cache_bytes > 0) {
    check.rate("cache_bandwidth_bytes_per_s", device.cache_bandwidth_bytes_per_s);
    check.require("cache_bandwidth_bytes_per_s", device.cache_bandwidth_bytes_per_s,
                  device.cache_bandwidth_bytes_per_s >= device.memory_bandwidth_bytes_per_s,
                  "at least the bandwidth of the memory");
  }
  for (int i = 0; i < op_class_count; ++i) {
    const auto op_class = static_cast<OpClass>(i);
    check.efficiency(op_class, device.efficiency_of(op_class));
  }
  check.interconnect(device.interconnect);
  return device;
}

std::vector<RegistryEntry<DeviceFunction>> core_devices() {
  std::vector<RegistryEntry<DeviceFunction>> entries;
  for (const EmbeddedFile& file : embedded_devices()) {
    const auto read = [&file] {
      return read_device(Node::parse_yaml(std::string_view(file.text, file.size), file.name));
    };
    entries.push_back(
        {{std::string_view(file.key), Origin::builtin, false, 0, std::string_view(file.name)},
         DeviceFunction(read)});
  }
  return entries;
}

const Registry<DeviceFunction>& devices() {
  return registry_of<DeviceFunction>("device", core_devices);
}

std::vector<std::string> device_names() { return devices().names(); }

bool same_device(std::string_view a, std::string_view b) { return normalized(a) == normalized(b); }

DeviceProfile make_device(const RegistryEntry<DeviceFunction>& entry) {
  DeviceProfile device = entry.call();
  device.provenance = devices().provenance(entry, same_device);
  return device;
}

bool is_device_path(std::string_view text) {
  const auto ends_with = [text](std::string_view end) {
    return text.size() > end.size() && text.substr(text.size() - end.size()) == end;
  };
  return text.find('/') != std::string_view::npos || ends_with(".yaml") || ends_with(".yml");
}

DeviceProfile load_device(std::string_view name_or_path) {
  if (is_device_path(name_or_path)) {
    const std::string path(name_or_path);
    DeviceProfile device = read_device(Node::load_yaml(path));
    device.provenance = {"device", device.name, Provenance::From::file, {}, path};
    return device;
  }
  const auto* const entry = find_device(name_or_path);
  if (entry == nullptr) fail_unknown_device(name_or_path);
  return make_device(*entry);
}

}  // namespace tcast
