#include "tcast/exec/run/executor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/exec/kernels/bf16.h"
#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/kernels/op_check.h"
#include "tcast/exec/memory.h"
#include "tcast/exec/run/input_filler.h"
#include "tcast/exec/run/weights.h"
#include "tcast/exec/threads.h"
#include "tcast/graph/liveness.h"

namespace tcast {
namespace {

constexpr std::int64_t alignment = 64;

/// Places of tensors in an arena, such that those alive at the same time do not overlap: the
/// largest first, each at the lowest free place.
class ArenaPlan {
 public:
  struct Item {
    std::int64_t bytes = 0;
    Lifetime lifetime;
    std::int64_t offset = 0;
  };

  std::size_t add(std::int64_t bytes, const Lifetime& lifetime) {
    items_.push_back({round_up(bytes, alignment), lifetime, 0});
    return items_.size() - 1;
  }
  std::int64_t offset(std::size_t item) const { return items_[item].offset; }

  /// Bytes of the arena.
  std::int64_t place() {
    std::vector<std::size_t> order(items_.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [this](std::size_t a, std::size_t b) {
      return items_[a].bytes > items_[b].bytes;
    });
    std::int64_t total = 0;
    std::vector<std::size_t> placed;  // by offset
    for (const std::size_t i : order) {
      Item& item = items_[i];
      item.offset = 0;
      for (const std::size_t k : placed) {
        const Item& other = items_[k];
        if (!item.lifetime.overlaps(other.lifetime) ||
            checked_add(item.offset, item.bytes) <= other.offset)
          continue;
        item.offset = std::max(item.offset, other.offset + other.bytes);
      }
      const auto where = std::upper_bound(
          placed.begin(), placed.end(), i,
          [this](std::size_t a, std::size_t b) { return items_[a].offset < items_[b].offset; });
      placed.insert(where, i);
      total = std::max(total, checked_add(item.offset, item.bytes));
    }
    return total;
  }

 private:
  std::vector<Item> items_;
};

/// A cache of one layer on one rank.
struct Cache {
  std::int64_t bytes = 0;
  std::vector<std::int32_t> block_table;
  CacheView view;
  bool has_scale = false;
};

/// How an op of a region is executed.
struct PreparedOp {
  OpRecord original;
  OpRecord record;  ///< with dtypes that the host has
  std::shared_ptr<Kernel> kernel;
  std::string packed_layout;
  bool dequantized = false;   ///< the weight is converted when it is loaded
  bool checked = false;       ///< compared with run_reference()
  bool static_scale = false;  ///< the product's input has a fixed scale, found at the first run
  std::vector<int> inputs;    ///< of Op::inputs, those that the kernel takes
  std::int64_t calls = 0;
  double total_s = 0;
};

struct PreparedRegion {
  std::vector<PreparedOp> ops;
  std::vector<std::int64_t> offsets;  ///< of each tensor's storage in the arena; -1: elsewhere
};

/// An op's operands, and the scales that are known when it runs only.
using OpInputs = std::array<Buffer, max_operands + 2>;

/// Buffers of all tensors of a call on one rank.
using CallBuffers = std::vector<Buffer>;

struct Program {
  bool bound = false;
  std::vector<PreparedRegion> regions;
  std::vector<std::vector<CallBuffers>> calls;  ///< [call][rank]
  /// Fixed scales of activations, as calibrated_scale() gave them: [call][rank][tensor].
  std::vector<std::vector<std::map<TensorId, float>>> scales;
  std::vector<std::int64_t> value_offsets;
  std::int64_t weight_bytes_per_pass = 0;  ///< without experts
  double expert_bytes = 0;                 ///< read by all passes since times were reset
  std::int64_t passes = 0;                 ///< since then
};

const void* data_of(const Buffer& buffer) { return buffer.data; }

float float_at(const Buffer& buffer, std::int64_t i) {
  if (buffer.dtype == DType::bf16) return to_float(static_cast<const Bf16*>(data_of(buffer))[i]);
  TCAST_CHECK(buffer.dtype == DType::f32, "a floating-point value");
  return static_cast<const float*>(data_of(buffer))[i];
}

/// All elements of a buffer, in the memory that `values` has already.
void to_floats(const Buffer& buffer, std::vector<float>& values) {
  values.resize(static_cast<std::size_t>(buffer.bytes / bytes_of(1, buffer.dtype)));
  if (buffer.dtype == DType::bf16) {
    const auto* source = static_cast<const Bf16*>(data_of(buffer));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = to_float(source[i]);
  } else {
    TCAST_CHECK(buffer.dtype == DType::f32, "floating-point values");
    const auto* source = static_cast<const float*>(data_of(buffer));
    std::copy_n(source, values.size(), values.begin());
  }
}

float largest_magnitude(const Buffer& buffer) {
  const std::int64_t count = buffer.bytes / bytes_of(1, buffer.dtype);
  float most = 0;
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, std::abs(float_at(buffer, i)));
  return most;
}

/// What a parameter's memory is found by.
struct WeightKey {
  const Parameter* parameter = nullptr;
  const Parameter* joined = nullptr;
  std::int64_t layer = -1;
  std::int64_t member = -1;  ///< -2: all of the rank's entries side by side
  std::int64_t rank = 0;
  bool dequantized = false;
  std::string layout;

  bool operator<(const WeightKey& o) const {
    return std::tie(parameter, joined, layer, member, rank, dequantized, layout) <
           std::tie(o.parameter, o.joined, o.layer, o.member, o.rank, o.dequantized, o.layout);
  }
};

bool is_narrow(DType dtype) { return dtype != DType::f32 && bits_of(dtype) <= 8; }

/// True for operands of less than 32 bit.
bool has_narrow_operands(const Region& region, const Op& op) {
  const auto is_short = [&](TensorId id) {
    const Tensor& tensor = region.tensors[id];
    const DType dtype = tensor.kind == TensorKind::cache
                            ? region.caches[static_cast<std::size_t>(tensor.index)].dtype
                            : tensor.dtype;
    return bits_of(dtype) < 32;
  };
  return std::any_of(op.inputs.begin(), op.inputs.end(), is_short) ||
         std::any_of(op.outputs.begin(), op.outputs.end(), is_short);
}

}  // namespace

class Executor::Impl {
 public:
  Impl(ParameterPath path, ExecutorOptions options)
      : path_(std::move(path)), options_(std::move(options)) {
    TCAST_CHECK(options_.ranks >= 1 && options_.max_sequence_length >= 1,
                "ranks and longest sequence of an executor");
    if (options_.arithmetic == Arithmetic::unrounded) host_ = {.bf16 = false, .int8 = false};
    arenas_.resize(static_cast<std::size_t>(options_.ranks));
    values_.resize(static_cast<std::size_t>(options_.ranks));
  }

  void prepare(const Graph& graph) {
    Program& program = plan_memory(graph);
    make_kernels(graph, program);
    for (AlignedMemory& arena : arenas_) grow(arena, arena_bytes_);
    for (AlignedMemory& values : values_) grow(values, value_bytes_);
    grow(scratch_, scratch_bytes_);
    bind(graph, program, !program.bound);
    program.bound = true;
    last_ = &program;
  }

  ExecutorMemory needed(const Graph& graph, std::int64_t limit_bytes) {
    Program& program = plan_memory(graph);
    ExecutorMemory memory;
    memory.activation_bytes = checked_mul(checked_add(arena_bytes_, value_bytes_), options_.ranks);
    if (memory.activation_bytes > limit_bytes) return memory;
    make_kernels(graph, program);
    const std::size_t tables = foreseen_.tables.size();
    for (std::size_t call = 0; call < graph.calls.size(); ++call) {
      const PreparedRegion& prepared = program.regions[graph.calls[call].region];
      for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
        foresee(graph, call, prepared, rank);
      }
    }
    std::int64_t logits_bytes = 0;
    for (const NamedValue& named : graph.outputs) {
      logits_bytes += bytes_of(graph.values[named.value].shape.elements(), DType::f32);
    }
    foreseen_.logits_bytes = std::max(foreseen_.logits_bytes, logits_bytes);
    memory.weight_bytes = foreseen_.packing_bytes;
    for (const auto& [key, bytes] : foreseen_.weights) memory.weight_bytes += bytes;
    if (tables > 0 && foreseen_.tables.size() > tables) foreseen_.tables_change = true;
    std::int64_t largest_table = 0;
    std::int64_t table_bytes = 0;
    for (const auto& [frequencies, bytes] : foreseen_.tables) {
      table_bytes += bytes;
      largest_table = std::max(largest_table, bytes);
    }
    constexpr auto most = static_cast<std::int64_t>(most_tables);
    memory.weight_bytes += foreseen_.tables_change ? most * largest_table : table_bytes;
    for (const auto& [key, bytes] : foreseen_.caches) memory.cache_bytes += bytes;
    memory.activation_bytes += foreseen_.logits_bytes * options_.ranks + scratch_bytes_ +
                               held_bytes() + foreseen_.check_bytes;
    return memory;
  }

  void run(const Graph& graph, const std::vector<std::vector<std::int64_t>>& token_ids,
           const FollowingIds& following) {
    prepare(graph);
    Program& program = *last_;
    set_token_ids(graph, program, 0, token_ids);
    for (std::int64_t rank = 0; rank < options_.ranks; ++rank) set_inputs(graph, program, rank);
    graph_ = &graph;
    ++program.passes;
    // The memory of the others is used again.
    std::erase_if(logits_, [&graph](const auto& known) {
      return std::none_of(graph.outputs.begin(), graph.outputs.end(),
                          [&known](const NamedValue& made) { return made.depth == known.first; });
    });
    std::int64_t depth = 0;
    for (std::size_t call = 0; call < graph.calls.size(); ++call) {
      // Depths are executed in their order.
      if (takes_token_ids(graph, graph.calls[call], depth + 1)) {
        ++depth;
        set_token_ids(graph, program, depth, following(depth));
      }
      run_call(program, call);
      keep_logits(graph, program, graph.calls[call]);
    }
    graph_ = nullptr;
  }

  struct Logits {
    Shape shape;
    std::vector<std::vector<float>> values;  ///< per rank
  };
  const Logits& logits(std::int64_t depth) const {
    const auto found = logits_.find(depth);
    if (found == logits_.end()) {
      throw Error(fmt::format("the model has no logits of depth {}", depth));
    }
    return found->second;
  }

  std::vector<OpTime> times() const {
    std::vector<OpTime> list;
    for (const auto& [key, time] : times_) list.push_back(time);
    return list;
  }
  void reset_times() {
    times_.clear();
    for (Program& program : programs_) {
      program.expert_bytes = 0;
      program.passes = 0;
    }
  }
  const WorstOp& worst_op() const { return worst_; }

  ExecutorMemory memory() const {
    ExecutorMemory memory;
    for (const auto& [key, weight] : weights_) memory.weight_bytes += weight.bytes;
    for (const auto& [key, cache] : caches_) memory.cache_bytes += cache.bytes;
    for (const AlignedMemory& arena : arenas_) memory.activation_bytes += arena.bytes();
    for (const AlignedMemory& values : values_) memory.activation_bytes += values.bytes();
    for (const auto& rows : rotary_) memory.weight_bytes += rows->cos.bytes() + rows->sin.bytes();
    for (const auto& [depth, logits] : logits_) {
      memory.activation_bytes += bytes_of(logits.shape.elements(), DType::f32) * options_.ranks;
    }
    memory.activation_bytes += scratch_.bytes() + held_bytes();
    return memory;
  }

  const std::vector<std::string>& notes() const { return notes_; }
  double weight_bytes_per_pass() const {
    if (last_ == nullptr) return 0;
    const double experts =
        last_->passes > 0 ? last_->expert_bytes / static_cast<double>(last_->passes) : 0;
    return static_cast<double>(last_->weight_bytes_per_pass) + experts;
  }

 private:
  /// Places for the values of a graph. No memory yet: only `bound` programs have it.
  Program& plan_memory(const Graph& graph) {
    TCAST_CHECK(graph.workload.executes, "a graph that is executed was traced for that");
    require_fillers(graph);
    require_logits(graph);
    Program& program = programs_[static_cast<std::size_t>(graph.workload.phase)];
    bool same = program.regions.size() == graph.region_count &&
                program.value_offsets.size() == graph.values.size();
    for (std::size_t i = 0; same && i < graph.region_count; ++i) {
      same = program.regions[i].ops.size() == graph.regions[i].ops.size();
    }
    if (!same) program = Program{};
    program.regions.resize(graph.region_count);
    find_liveness(graph, liveness_);
    for (std::uint32_t i = 0; i < graph.region_count; ++i) {
      arena_bytes_ = std::max(
          arena_bytes_, plan_region(graph.regions[i], liveness_.regions[i], program.regions[i]));
    }
    value_bytes_ = std::max(value_bytes_, plan_values(graph, program));
    return program;
  }

  static bool is_logits(const NamedValue& output) { return output.name == "logits"; }

  static void require_logits(const Graph& graph) {
    for (const NamedValue& output : graph.outputs) {
      const DType dtype = graph.values[output.value].dtype;
      if (!is_logits(output) || is_float(dtype)) continue;
      throw Error(fmt::format("the model's logits are of dtype {}, expected a floating-point one",
                              name_of(dtype)));
    }
    if (graph.outputs.empty() ||
        std::any_of(graph.outputs.begin(), graph.outputs.end(), is_logits)) {
      return;
    }
    std::vector<std::string> names;
    for (const NamedValue& output : graph.outputs) names.push_back(printable(output.name));
    throw Error(fmt::format("the model has no result named 'logits', only {}", join(names, ", ")),
                "name it in forward: trace.output(\"logits\", value)");
  }

  void make_kernels(const Graph& graph, Program& program) {
    for (std::uint32_t i = 0; i < graph.region_count; ++i) {
      if (prepare_ops(graph, i, program.regions[i])) program.bound = false;
    }
  }

  std::int64_t held_bytes() const {
    std::int64_t bytes = 0;
    for (const Program& program : programs_) {
      for (const PreparedRegion& region : program.regions) {
        for (const PreparedOp& op : region.ops) {
          if (op.kernel != nullptr) bytes += op.kernel->held_bytes();
        }
      }
    }
    return bytes;
  }

  /// Notes what one rank will hold for a call.
  void foresee(const Graph& graph, std::size_t call, const PreparedRegion& prepared,
               std::int64_t rank) {
    const Region& region = graph.regions[graph.calls[call].region];
    const std::int64_t layer = graph.calls[call].member;
    for (std::size_t index = 0; index < region.ops.size(); ++index) {
      const Op& op = region.ops[index];
      const PreparedOp& ready = prepared.ops[index];
      std::int64_t changed_bytes = 0;  // by the op
      for (const TensorId id : op.outputs) changed_bytes += tensor_bytes(region.tensors[id]);
      for (const int i : ready.inputs) {
        const Tensor& tensor = region.tensors[op.inputs[i]];
        if (tensor.kind == TensorKind::cache) {
          const CacheSpec& spec = region.caches.at(static_cast<std::size_t>(tensor.index));
          const DType dtype = host_dtype(spec.dtype);
          const std::int64_t bytes =
              blocks_of(graph, spec) * layout_of(spec, dtype).bytes_per_block();
          foreseen_.caches[cache_key(graph, call, tensor, rank)] = bytes;
          changed_bytes += bytes;
        } else if (tensor.kind == TensorKind::parameter) {
          const bool packs = i == 1 && !ready.packed_layout.empty();
          const std::int64_t plain = plain_bytes(tensor, ready, i);
          foreseen_.weights[weight_key(tensor, ready, i, layer, rank, packs)] =
              packs ? ready.kernel->packed_bytes() : plain;
          if (packs) foreseen_.packing_bytes = std::max(foreseen_.packing_bytes, plain);
          if (packs && ready.checked) {
            foreseen_.weights[weight_key(tensor, ready, i, layer, rank, false)] = plain;
          }
        }
      }
      if (const auto* table = std::get_if<RotaryTable>(&ready.record);
          table != nullptr && table->cached) {
        const Tensor& frequencies = region.tensors[op.inputs[1]];
        foreseen_.tables[graph.constants.at(static_cast<std::size_t>(frequencies.index))] =
            2 * bytes_of(table->table_positions * table->dim, table->dtype);
      }
      // What it was, and what the plain loops make of it.
      if (ready.checked) foreseen_.check_bytes = std::max(foreseen_.check_bytes, 2 * changed_bytes);
    }
  }

  static void grow(AlignedMemory& memory, std::int64_t bytes) {
    if (memory.bytes() >= bytes) return;
    memory = AlignedMemory(bytes);
    touch(memory.span());
  }

  /// Lets the system find the pages now, and not while an op is timed.
  static void touch(std::span<std::byte> memory) {
    for (std::size_t i = 0; i < memory.size(); i += 4096) memory[i] = std::byte{0};
  }

  DType host_dtype(DType dtype) const { return substitute_dtype(dtype, host_); }

  // --- kernels -----------------------------------------------------------------------------------

  [[noreturn]] void fail(const Region& region, const Op& op, const std::string& reason) const {
    throw Error(
        fmt::format("{} in {} cannot be executed on this processor: {} ({})", name_of(op.record),
                    path_of(region, op.scope), reason, describe(op.record)),
        "choose another --dtype or quantization, or simulate instead");
  }

  /// Kernels for the ops of a region; true when weights have to be bound again.
  bool prepare_ops(const Graph& graph, std::uint32_t index, PreparedRegion& prepared) {
    const Region& region = graph.regions[index];
    prepared.ops.resize(region.ops.size());
    bool rebind = false;
    for (std::size_t i = 0; i < region.ops.size(); ++i) {
      const Op& op = region.ops[i];
      PreparedOp& ready = prepared.ops[i];
      if (ready.kernel != nullptr && ready.original == op.record) continue;
      ready.original = op.record;
      if (std::holds_alternative<Collective>(op.record)) {
        ready.record = op.record;
        continue;
      }
      const std::string layout = ready.packed_layout;
      prepare_op(region, op, ready);
      rebind = rebind || ready.packed_layout != layout || takes_parameters(region, op);
      scratch_bytes_ = std::max(scratch_bytes_, ready.kernel->scratch_bytes());
    }
    return rebind;
  }

  static bool takes_parameters(const Region& region, const Op& op) {
    return std::any_of(op.inputs.begin(), op.inputs.end(), [&](TensorId id) {
      return region.tensors[id].kind == TensorKind::parameter;
    });
  }

  void prepare_op(const Region& region, const Op& op, PreparedOp& ready) {
    std::string note;
    ready.record = host_substitute(op.record, host_, &note);
    add_note(note);
    const auto caches = std::count_if(op.inputs.begin(), op.inputs.end(), [&](TensorId id) {
      return region.tensors[id].kind == TensorKind::cache;
    });
    if (caches > 1) fail(region, op, fmt::format("it takes {} caches, not one", caches));
    ready.dequantized = false;
    ready.static_scale = false;
    ready.inputs.clear();
    for (int i = 0; i < op.inputs.count; ++i) ready.inputs.push_back(i);
    if (auto* table = std::get_if<RotaryTable>(&ready.record); table != nullptr && table->cached) {
      table->table_positions = options_.max_sequence_length;
    }
    if (const auto* product = std::get_if<MatMul>(&op.record)) {
      prepare_product(region, op, *product, std::get<MatMul>(ready.record), 2, ready);
    } else if (const auto* grouped = std::get_if<GroupedMatMul>(&op.record)) {
      prepare_product(region, op, *grouped, std::get<GroupedMatMul>(ready.record), 3, ready);
    } else {
      KernelResult result = make_kernel(ready.record, options_.context);
      if (result.kernel == nullptr) fail(region, op, result.unsupported);
      ready.kernel = std::move(result.kernel);
    }
    ready.packed_layout = ready.kernel->packed_bytes() > 0 ? ready.kernel->packed_layout() : "";
    ready.checked = options_.arithmetic == Arithmetic::checked &&
                    !std::holds_alternative<CustomOp>(op.record) && has_narrow_operands(region, op);
  }

  /// Products: operands that the substitution made superfluous go; a weight that no kernel reads as
  /// it is stored is converted when it is loaded.
  template <class Product>
  void prepare_product(const Region& region, const Op& op, const Product& original,
                       Product& product, int first_optional, PreparedOp& ready) {
    // A fixed scale of the input is known to the executor only.
    if (product.input == DType::i8 && original.activation_scales == 0) {
      ready.static_scale = true;
      product.activation_scales = 1;
    }
    const Tensor& weight = region.tensors[op.inputs[1]];
    const bool is_parameter = weight.kind == TensorKind::parameter;
    ready.dequantized = is_parameter && is_narrow(original.weight) && !is_narrow(product.weight);
    KernelResult result = make_kernel(product, options_.context);
    if (result.kernel == nullptr && is_parameter && product.weight == DType::i8 &&
        product.compute != DType::i8) {
      product.weight = product.compute;
      product.weight_scales = 0;
      ready.dequantized = true;
      add_note(fmt::format("{} weights of {} converted to {}", short_name_of(original.weight),
                           path_of(region, op.scope), short_name_of(product.compute)));
      result = make_kernel(product, options_.context);
    }
    if (result.kernel == nullptr) fail(region, op, result.unsupported);
    ready.kernel = std::move(result.kernel);
    // The order of operands: [weight scales], [bias], [activation scales].
    int place = first_optional;
    const auto drop = [&ready](int input) {
      ready.inputs.erase(std::find(ready.inputs.begin(), ready.inputs.end(), input));
    };
    if (original.weight_scales > 0) {
      if (product.weight_scales == 0) drop(place);
      ++place;
    }
    if (op.inputs.count > place && has_bias(original)) ++place;
    if (original.activation_scales > 0 && product.activation_scales == 0) drop(place);
  }

  static bool has_bias(const MatMul& op) { return op.bias; }
  static bool has_bias(const GroupedMatMul& op) { return op.bias; }

  void add_note(const std::string& note) {
    if (note.empty() || std::find(notes_.begin(), notes_.end(), note) != notes_.end()) return;
    notes_.push_back(note);
  }

  // --- memory ------------------------------------------------------------------------------------

  std::int64_t tensor_bytes(const Tensor& tensor) const {
    return bytes_of(tensor.shape.elements(), host_dtype(tensor.dtype));
  }

  /// Places the activations of a region; those that leave it get no place here.
  std::int64_t plan_region(const Region& region, const RegionLiveness& liveness,
                           PreparedRegion& prepared) const {
    prepared.offsets.assign(region.tensors.size(), -1);
    ArenaPlan plan;
    std::vector<std::pair<std::size_t, std::size_t>> items;
    for (std::size_t i = 0; i < region.tensors.size(); ++i) {
      const Tensor& tensor = region.tensors[i];
      const Lifetime& lifetime = liveness.lifetimes[i];
      if (tensor.kind != TensorKind::activation || liveness.roots[i] != i) continue;
      if (!lifetime.is_used() || lifetime.outlives()) continue;
      items.emplace_back(i, plan.add(tensor_bytes(tensor), lifetime));
    }
    const std::int64_t bytes = plan.place();
    for (const auto& [tensor, item] : items) prepared.offsets[tensor] = plan.offset(item);
    return bytes;
  }

  /// Places the values that pass between calls: those that show the same memory at the same place.
  std::int64_t plan_values(const Graph& graph, Program& program) const {
    std::vector<std::int64_t> bytes(liveness_.storages.size(), 0);
    const auto make_room = [&](ValueId value, std::int64_t for_bytes) {
      std::int64_t& room = bytes[liveness_.storage_of[value]];
      room = std::max(room, for_bytes);
    };
    for (ValueId id = 0; id < graph.values.size(); ++id) {
      make_room(id,
                bytes_of(graph.values[id].shape.elements(), host_dtype(graph.values[id].dtype)));
    }
    for (const Call& call : graph.calls) {
      const Region& region = graph.regions[call.region];
      const std::vector<TensorId>& roots = liveness_.regions[call.region].roots;
      for (int i = 0; i < call.outputs.count; ++i) {
        const TensorId root = roots[region.outputs[static_cast<std::size_t>(i)]];
        make_room(call.outputs[i], tensor_bytes(region.tensors[root]));
      }
    }
    ArenaPlan plan;
    constexpr std::size_t none = ~std::size_t{0};
    std::vector<std::size_t> item_of(bytes.size(), none);
    for (const std::uint32_t storage : liveness_.storage_of) {
      if (item_of[storage] != none) continue;
      item_of[storage] = plan.add(bytes[storage], liveness_.storages[storage].lifetime);
    }
    const std::int64_t total = plan.place();
    program.value_offsets.clear();
    for (const std::uint32_t storage : liveness_.storage_of) {
      program.value_offsets.push_back(plan.offset(item_of[storage]));
    }
    return total;
  }

  // --- binding -----------------------------------------------------------------------------------

  void bind(const Graph& graph, Program& program, bool weights) {
    program.calls.resize(graph.calls.size());
    program.scales.resize(graph.calls.size());
    if (weights) program.weight_bytes_per_pass = 0;
    for (std::size_t c = 0; c < graph.calls.size(); ++c) {
      program.calls[c].resize(static_cast<std::size_t>(options_.ranks));
      program.scales[c].resize(static_cast<std::size_t>(options_.ranks));
      for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
        bind_call(graph, program, c, rank, weights);
      }
    }
  }

  void bind_call(const Graph& graph, Program& program, std::size_t index, std::int64_t rank,
                 bool weights) {
    const Call& call = graph.calls[index];
    const Region& region = graph.regions[call.region];
    const PreparedRegion& prepared = program.regions[call.region];
    CallBuffers& buffers = program.calls[index][static_cast<std::size_t>(rank)];
    buffers.resize(region.tensors.size());
    const std::vector<TensorId>& roots = liveness_.regions[call.region].roots;
    std::byte* const arena = arenas_[static_cast<std::size_t>(rank)].data();
    std::byte* const values = values_[static_cast<std::size_t>(rank)].data();
    for (std::size_t i = 0; i < region.tensors.size(); ++i) {
      const Tensor& tensor = region.tensors[i];
      if (tensor.kind == TensorKind::parameter) continue;
      Buffer& buffer = buffers[i];
      buffer.dtype = host_dtype(tensor.dtype);
      buffer.shape = tensor.shape;
      buffer.bytes = tensor_bytes(tensor);
      buffer.data = nullptr;
      if (prepared.offsets[roots[i]] >= 0) {
        buffer.data = arena + prepared.offsets[roots[i]];
      } else if (tensor.kind == TensorKind::constant) {
        const std::vector<float>& numbers =
            graph.constants.at(static_cast<std::size_t>(tensor.index));
        // Only read: constants belong to the graph, which lives as long as the run.
        buffer.data =
            static_cast<std::byte*>(static_cast<void*>(const_cast<float*>(numbers.data())));
      }
    }
    const auto bind_value = [&](TensorId tensor, ValueId value) {
      std::byte* const place = values + program.value_offsets[value];
      for (std::size_t i = 0; i < region.tensors.size(); ++i) {
        if (roots[i] == roots[tensor]) buffers[i].data = place;
      }
    };
    for (int i = 0; i < call.outputs.count; ++i) {
      const TensorId tensor = region.outputs[static_cast<std::size_t>(i)];
      if (region.tensors[roots[tensor]].kind == TensorKind::activation) {
        bind_value(tensor, call.outputs[i]);
      }
    }
    for (int i = 0; i < call.inputs.count; ++i) {
      bind_value(region.inputs[static_cast<std::size_t>(i)], call.inputs[i]);
    }
    if (!weights) return;
    for (std::size_t i = 0; i < region.ops.size(); ++i) {
      for (const TensorId id : region.ops[i].inputs) {
        if (region.tensors[id].kind != TensorKind::cache) continue;
        cache_of(graph, index, region.tensors[id], rank);
      }
      bind_weights(region, region.ops[i], prepared.ops[i], call.member, rank, buffers);
      const OpRecord& record = region.ops[i].record;
      if (std::holds_alternative<Gather>(record) || std::holds_alternative<GroupedMatMul>(record)) {
        continue;  // do not read all of their weights
      }
      program.weight_bytes_per_pass += parameter_bytes(region, region.ops[i], buffers);
    }
  }

  static std::int64_t parameter_bytes(const Region& region, const Op& op,
                                      const CallBuffers& buffers) {
    std::int64_t bytes = 0;
    for (const TensorId id : op.inputs) {
      if (region.tensors[id].kind == TensorKind::parameter) bytes += buffers[id].bytes;
    }
    return bytes;
  }

  /// Bytes of the experts to which tokens went.
  static double expert_bytes(const Region& region, const Op& op, const GroupedMatMul& product,
                             const CallBuffers& buffers) {
    std::int64_t chosen = 0;
    for (std::int64_t i = 0; i < product.experts; ++i) {
      chosen += index_at(buffers[op.inputs[2]], product.first_expert + i) > 0 ? 1 : 0;
    }
    return static_cast<double>(parameter_bytes(region, op, buffers)) * static_cast<double>(chosen) /
           static_cast<double>(product.experts);
  }

  // --- weights -----------------------------------------------------------------------------------

  void bind_weights(const Region& region, const Op& op, const PreparedOp& ready, std::int64_t layer,
                    std::int64_t rank, CallBuffers& buffers) {
    for (int i = 0; i < op.inputs.count; ++i) {
      const TensorId id = op.inputs[i];
      if (region.tensors[id].kind != TensorKind::parameter) continue;
      if (std::find(ready.inputs.begin(), ready.inputs.end(), i) == ready.inputs.end()) continue;
      buffers[id] =
          weight_of(region, op, ready, i, layer, rank, i == 1 && !ready.packed_layout.empty());
    }
  }

  static WeightKey weight_key(const Tensor& tensor, const PreparedOp& ready, int i,
                              std::int64_t layer, std::int64_t rank, bool packs) {
    WeightKey key;
    key.parameter = tensor.parameter;
    key.joined = tensor.joined;
    key.layer = layer;
    key.member = tensor.stacked > 0 ? -2 : tensor.member;
    key.rank = place_of(tensor, rank);
    if (packs) key.layout = ready.packed_layout;
    key.dequantized = i == 1 && ready.dequantized;
    return key;
  }

  /// Dtype in which input `i` is generated.
  DType made_dtype(const Tensor& tensor, const PreparedOp& ready, int i) const {
    if (tensor.parameter->scale) return DType::f32;
    return i == 1 && ready.dequantized ? weight_dtype(ready.record) : host_dtype(tensor.dtype);
  }

  /// Bytes of input `i`, a parameter, before it is packed.
  std::int64_t plain_bytes(const Tensor& tensor, const PreparedOp& ready, int i) const {
    return bytes_of(checked_mul(elements_of(tensor), std::max<std::int64_t>(1, tensor.stacked)),
                    made_dtype(tensor, ready, i));
  }

  /// Elements of one list entry of a parameter on one rank.
  static std::int64_t elements_of(const Tensor& tensor) {
    const std::int64_t joined =
        tensor.joined == nullptr ? 0 : tensor.joined->local_shape().elements();
    return tensor.parameter->local_shape().elements() + joined;
  }

  /// Input `i` of an op, a parameter, as the kernel wants it or (`packs` false) plain.
  Buffer weight_of(const Region& region, const Op& op, const PreparedOp& ready, int i,
                   std::int64_t layer, std::int64_t rank, bool packs) {
    const Tensor& tensor = region.tensors[op.inputs[i]];
    // Scales belong to the weight of the same product.
    const Tensor& weight = region.tensors[op.inputs[1]];
    WeightKey key = weight_key(tensor, ready, i, layer, rank, packs);
    auto found = weights_.find(key);
    if (found == weights_.end()) {
      const Buffer made =
          tensor.parameter->scale
              ? make_scales(tensor, weight, layer, rank)
              : make_weight(tensor, scale_of(region, op, ready, i), layer, rank,
                            made_dtype(tensor, ready, i), packs ? ready.kernel.get() : nullptr);
      found = weights_.emplace(std::move(key), made).first;
    }
    Buffer buffer = found->second;
    buffer.shape = tensor.shape;
    return buffer;
  }

  /// Ranks with equal places hold the same part of a tensor, and share its memory.
  static std::int64_t place_of(const Tensor& tensor, std::int64_t rank) {
    std::int64_t place = rank / tensor.list_stride % tensor.list_ranks;
    for (const Parameter* parameter : {tensor.parameter, tensor.joined}) {
      if (parameter == nullptr) continue;
      for (const Shard* shard : {&parameter->shard, &parameter->stack}) {
        if (shard->dim >= 0) place = place * shard->ranks + rank / shard->stride % shard->ranks;
      }
    }
    return place;
  }

  static DType weight_dtype(const OpRecord& record) {
    if (const auto* product = std::get_if<MatMul>(&record)) return product->weight;
    return std::get<GroupedMatMul>(record).weight;
  }

  /// The scales that belong to a quantized weight, input 1 of a product.
  static const Parameter* scale_of(const Region& region, const Op& op, const PreparedOp&, int i) {
    if (i != 1) return nullptr;
    for (const TensorId id : op.inputs) {
      const Tensor& tensor = region.tensors[id];
      if (tensor.kind == TensorKind::parameter && tensor.parameter->scale) return tensor.parameter;
    }
    return nullptr;
  }

  /// Entries of a list that a rank holds of a stacked tensor: the first, and how many.
  std::pair<std::int64_t, std::int64_t> entries(const Tensor& tensor, std::int64_t rank) const {
    if (tensor.stacked == 0) return {tensor.member, 1};
    const std::int64_t place = rank / tensor.list_stride % tensor.list_ranks;
    return {tensor.member + place * tensor.stacked, tensor.stacked};
  }

  std::string path_of_parameter(const Parameter& parameter, std::int64_t layer,
                                std::int64_t member) const {
    return parameter.tied_to.empty() ? path_(parameter, layer, member) : parameter.tied_to;
  }

  Buffer make_weight(const Tensor& tensor, const Parameter* scale, std::int64_t layer,
                     std::int64_t rank, DType dtype, Kernel* kernel) {
    const auto [first, count] = entries(tensor, rank);
    const std::int64_t each_bytes = bytes_of(elements_of(tensor), dtype);
    const std::int64_t bytes = each_bytes * count;
    const AlignedMemory until_packed(kernel != nullptr ? bytes : 0);
    const std::span<std::byte> plain =
        kernel != nullptr ? until_packed.span() : long_lived_.take(bytes);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t member = first < 0 ? -1 : first + i;
      std::byte* place = plain.data() + i * each_bytes;
      for (const Parameter* part : {tensor.parameter, tensor.joined}) {
        if (part == nullptr) continue;
        const std::int64_t part_bytes = bytes_of(part->local_shape().elements(), dtype);
        fill(*part, scale, path_of_parameter(*part, layer, member), rank,
             {place, part_bytes, dtype, {}});
        place += part_bytes;
      }
    }
    const Buffer whole{plain.data(), bytes, dtype, {}};
    if (kernel == nullptr) return whole;
    const Buffer packed{
        long_lived_.take(kernel->packed_bytes()).data(), kernel->packed_bytes(), dtype, {}};
    kernel->pack_weight(whole, packed);
    return packed;
  }

  void fill(const Parameter& parameter, const Parameter* scale, const std::string& path,
            std::int64_t rank, const Buffer& target) const {
    if (is_narrow(parameter.dtype) && options_.arithmetic == Arithmetic::unrounded) {
      Parameter original = parameter;
      original.dtype = parameter.quantized_from.value_or(DType::bf16);
      generate_parameter(original, path, rank, target);
    } else if (is_narrow(parameter.dtype)) {
      TCAST_CHECK(scale != nullptr, "a quantized weight has scales");
      generate_quantized(parameter, *scale, path, rank, target, {});
    } else {
      generate_parameter(parameter, path, rank, target);
    }
  }

  Buffer make_scales(const Tensor& tensor, const Tensor& weight, std::int64_t layer,
                     std::int64_t rank) {
    const auto [first, count] = entries(weight, rank);
    const std::int64_t each = tensor.parameter->local_shape().elements();
    const std::int64_t bytes = bytes_of(each * count, DType::f32);
    const Buffer scales{long_lived_.take(bytes).data(), bytes, DType::f32, {}};
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t member = first < 0 ? -1 : first + i;
      generate_quantized(*weight.parameter, *tensor.parameter,
                         path_of_parameter(*weight.parameter, layer, member), rank, {},
                         {scales.data + bytes_of(i * each, DType::f32),
                          bytes_of(each, DType::f32),
                          DType::f32,
                          {}});
    }
    return scales;
  }

  // --- caches ------------------------------------------------------------------------------------

  /// Layer, which of its caches, rank.
  using CacheKey = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

  static CacheKey cache_key(const Graph& graph, std::size_t call, const Tensor& tensor,
                            std::int64_t rank) {
    const Call& owner = graph.calls[call];
    // Layers are known by their number, whatever is traced before them.
    std::int64_t layer = owner.cache_member >= 0 ? owner.cache_member : owner.member;
    if (layer < 0) layer = -1 - static_cast<std::int64_t>(call);
    return {layer, tensor.index, rank};
  }

  CacheLayout layout_of(const CacheSpec& spec, DType dtype) const {
    CacheLayout layout;
    layout.block_tokens = spec.block_size > 1 ? spec.block_size : options_.max_sequence_length;
    layout.kv_heads = spec.kv_heads;
    layout.qk_head_dim = spec.key_dim;
    layout.v_head_dim = spec.elements_per_token / spec.kv_heads - spec.key_dim;
    layout.dtype = dtype;
    return layout;
  }

  /// Blocks of a cache for all requests.
  std::int64_t blocks_of(const Graph& graph, const CacheSpec& spec) const {
    return checked_mul(graph.workload.batch, ceil_div(options_.max_sequence_length,
                                                      layout_of(spec, spec.dtype).block_tokens));
  }

  Cache& cache_of(const Graph& graph, std::size_t call, const Tensor& tensor, std::int64_t rank) {
    const Region& region = graph.regions[graph.calls[call].region];
    const CacheSpec& spec = region.caches.at(static_cast<std::size_t>(tensor.index));
    const DType dtype = host_dtype(spec.dtype);
    Cache& cache = caches_[cache_key(graph, call, tensor, rank)];
    if (cache.bytes == 0) {
      const CacheLayout& layout = cache.view.layout = layout_of(spec, dtype);
      cache.view.batch = graph.workload.batch;
      const std::int64_t blocks = blocks_of(graph, spec);
      cache.view.blocks_per_request = blocks / cache.view.batch;
      cache.bytes = blocks * layout.bytes_per_block();
      const std::span<std::byte> memory = long_lived_.take(cache.bytes);
      touch(memory);
      cache.view.data = memory.data();
      cache.block_table.resize(static_cast<std::size_t>(blocks));
      for (std::int64_t i = 0; i < blocks; ++i) {
        cache.block_table[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
      }
      cache.view.block_table = cache.block_table;
    }
    TCAST_CHECK(cache.view.batch == graph.workload.batch && cache.view.layout.dtype == dtype,
                "a cache serves the same requests all the time");
    cache.view.context_length = graph.workload.context_length;
    return cache;
  }

  // --- inputs and outputs ------------------------------------------------------------------------

  Buffer value_buffer(const Graph& graph, const Program& program, ValueId id,
                      std::int64_t rank) const {
    const GraphValue& value = graph.values[id];
    const DType dtype = host_dtype(value.dtype);
    return {values_[static_cast<std::size_t>(rank)].data() + program.value_offsets[id],
            bytes_of(value.shape.elements(), dtype), dtype, value.shape};
  }

  static const NamedValue* token_ids_of(const Graph& graph, std::int64_t depth) {
    for (const NamedValue& input : graph.inputs) {
      if (input.name == token_ids_input && input.depth == depth) return &input;
    }
    return nullptr;
  }

  static bool takes_token_ids(const Graph& graph, const Call& call, std::int64_t depth) {
    const NamedValue* ids = token_ids_of(graph, depth);
    return ids != nullptr &&
           std::find(call.inputs.begin(), call.inputs.end(), ids->value) != call.inputs.end();
  }

  void set_token_ids(const Graph& graph, const Program& program, std::int64_t depth,
                     const std::vector<std::vector<std::int64_t>>& ids) const {
    TCAST_CHECK(ids.size() == static_cast<std::size_t>(options_.ranks), "token ids per rank");
    const NamedValue* input = token_ids_of(graph, depth);
    if (input == nullptr) return;  // not every graph takes any
    for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
      const std::vector<std::int64_t>& list = ids[static_cast<std::size_t>(rank)];
      TCAST_CHECK(static_cast<std::int64_t>(list.size()) == graph.workload.tokens(), "token ids");
      const Buffer buffer = value_buffer(graph, program, input->value, rank);
      for (std::size_t i = 0; i < list.size(); ++i) {
        set_index(buffer, static_cast<std::int64_t>(i), list[i]);
      }
    }
  }

  void set_inputs(const Graph& graph, const Program& program, std::int64_t rank) const {
    for (const NamedValue& input : graph.inputs) {
      if (input.name == token_ids_input) continue;
      const auto* const filler = input_fillers().find(input.name);
      TCAST_CHECK(filler != nullptr, "inputs were looked at before");
      filler->call(InputContext{graph.workload, input.span, rank},
                   value_buffer(graph, program, input.value, rank));
    }
  }

  /// Keeps the logits that a call has made.
  void keep_logits(const Graph& graph, const Program& program, const Call& call) {
    for (const NamedValue& named : graph.outputs) {
      if (std::find(call.outputs.begin(), call.outputs.end(), named.value) == call.outputs.end()) {
        continue;
      }
      if (!is_logits(named)) continue;
      Logits& logits = logits_[named.depth];
      logits.shape = graph.values[named.value].shape;
      logits.values.resize(static_cast<std::size_t>(options_.ranks));
      for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
        const Buffer buffer = value_buffer(graph, program, named.value, rank);
        to_floats(buffer, logits.values[static_cast<std::size_t>(rank)]);
      }
    }
  }

  // --- execution ---------------------------------------------------------------------------------

  void run_call(Program& program, std::size_t index) {
    const Call& call = graph_->calls[index];
    const Region& region = graph_->regions[call.region];
    PreparedRegion& prepared = program.regions[call.region];
    for (std::size_t i = 0; i < region.ops.size(); ++i) {
      const Op& op = region.ops[i];
      PreparedOp& ready = prepared.ops[i];
      const double start = now_s();
      if (const auto* collective = std::get_if<Collective>(&op.record)) {
        exchange(*collective, op, program.calls[index]);
      } else {
        for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
          run_op(program, index, region, op, ready, rank);
        }
      }
      note_time(region, call.region, i, op, ready, now_s() - start);
      if (const auto* product = std::get_if<GroupedMatMul>(&op.record)) {
        for (const CallBuffers& buffers : program.calls[index]) {
          program.expert_bytes += expert_bytes(region, op, *product, buffers);
        }
      }
    }
    // Parameters and constants that a region hands on have no memory among the values.
    for (int i = 0; i < call.outputs.count; ++i) {
      const TensorId tensor = region.outputs[static_cast<std::size_t>(i)];
      const TensorKind kind = region.tensors[liveness_.regions[call.region].roots[tensor]].kind;
      if (kind == TensorKind::activation || kind == TensorKind::input) continue;
      for (std::int64_t rank = 0; rank < options_.ranks; ++rank) {
        const Buffer& source = program.calls[index][static_cast<std::size_t>(rank)][tensor];
        const Buffer target = value_buffer(*graph_, program, call.outputs[i], rank);
        std::copy_n(source.data, target.bytes, target.data);
      }
    }
  }

  void run_op(Program& program, std::size_t call, const Region& region, const Op& op,
              PreparedOp& ready, std::int64_t rank) {
    const auto r = static_cast<std::size_t>(rank);
    CallBuffers& buffers = program.calls[call][r];
    OpInputs inputs;
    std::size_t used = 0;
    CacheView* view = nullptr;
    Cache* cache = nullptr;
    for (const int i : ready.inputs) {
      const TensorId id = op.inputs[i];
      const Tensor& tensor = region.tensors[id];
      if (tensor.kind == TensorKind::cache) {
        cache = &cache_of(*graph_, call, tensor, rank);
        view = &cache->view;
        inputs[used] = {view->data, cache->bytes, view->layout.dtype, {}};
      } else {
        inputs[used] = buffers[id];
      }
      ++used;
    }
    std::array<Buffer, max_operands> outputs;
    std::size_t results = 0;
    for (const TensorId id : op.outputs) outputs[results++] = buffers[id];

    float fixed_scale = 0;
    Buffer scale_buffer{
        static_cast<std::byte*>(static_cast<void*>(&fixed_scale)), 4, DType::f32, {}};
    if (const auto* quantize = std::get_if<Quantize>(&ready.record)) {
      if (quantize->group < 0) {
        float& known = program.scales[call][r][op.outputs[0]];
        if (known == 0) known = calibrated_scale(call, region, op, rank, inputs[0]);
        // All zeros: nothing to learn from, and nothing to scale.
        fixed_scale = known > 0 ? known : 1.0f;
        inputs[used++] = scale_buffer;
      }
    } else if (ready.static_scale) {
      const float known = program.scales[call][r].at(op.inputs[0]);
      fixed_scale = known > 0 ? known : 1.0f;
      inputs[used++] = scale_buffer;
    } else if (const auto* append = std::get_if<CacheAppend>(&ready.record)) {
      if (append->cache == DType::i8 && !cache->has_scale) set_cache_scale(*cache, inputs, used);
    } else if (const auto* table = std::get_if<RotaryTable>(&ready.record)) {
      if (table->cached) {
        RotaryRows& rows = rotary_rows(*table, inputs[1]);
        inputs[1] = rows.cos_buffer;
        inputs[2] = rows.sin_buffer;
        used = 3;
      }
    } else if (const auto* gather = std::get_if<Gather>(&ready.record); gather && gather->partial) {
      inputs[1] = shifted_ids(inputs[1], *region.tensors[op.inputs[0]].parameter, rank);
    }
    const KernelArgs args{{inputs.data(), used}, {outputs.data(), results}, scratch_.span(), view};
    if (ready.checked) {
      check(region, op, ready, args, graph_->calls[call].member, rank);
    } else {
      ready.kernel->run(args);
    }
    if (const auto* route = std::get_if<Route>(&ready.record); route && options_.on_route) {
      options_.on_route({*route, path_of(region, op.scope), graph_->calls[call].member, rank,
                         first_token(region, op, route->tokens, rank), route->tokens, inputs[0],
                         route->correction_bias ? inputs[1] : Buffer{}, outputs[0], outputs[1],
                         graph_->workload.phase});
    }
  }

  void check(const Region& region, const Op& op, const PreparedOp& ready, const KernelArgs& args,
             std::int64_t layer, std::int64_t rank) {
    std::vector<Buffer> plain(args.inputs.begin(), args.inputs.end());
    if (!ready.packed_layout.empty()) {
      plain[1] = weight_of(region, op, ready, 1, layer, rank, false);
    }
    const OpCheck checked(ready.record, {plain, args.outputs, {}, args.cache});
    ready.kernel->run(args);
    const double error = checked.error();
    if (error <= worst_.error) return;
    worst_ = {error, std::string(name_of(op.record)), path_of(region, op.scope)};
  }

  /// Where the rows of a router begin among the tokens of its rank: ranks that have the same tokens
  /// may have shared them out before.
  static std::int64_t first_token(const Region& region, const Op& op, std::int64_t tokens,
                                  std::int64_t rank) {
    for (auto i = static_cast<std::size_t>(&op - region.ops.data()); i-- > 0;) {
      const auto* shared = std::get_if<Collective>(&region.ops[i].record);
      if (shared == nullptr || shared->kind != CollectiveKind::slice) continue;
      if (region.tensors[region.ops[i].outputs[0]].shape[0] != tokens) continue;
      return rank / shared->stride % shared->group_size * tokens;
    }
    return 0;
  }

  /// The fixed scale of an activation: that of the first pass (the prompt) that saw it, for every
  /// pass after. 0 when all of it is zero.
  float calibrated_scale(std::size_t call, const Region& region, const Op& op, std::int64_t rank,
                         const Buffer& x) {
    // Prefill and decode have regions of their own: what they share is the module, and which of its
    // conversions it is.
    std::int64_t place = 0;
    for (const Op& other : region.ops) {
      if (&other == &op) break;
      if (other.scope == op.scope && std::holds_alternative<Quantize>(other.record)) ++place;
    }
    float& known =
        fixed_scales_[{graph_->calls[call].member, path_of(region, op.scope), place, rank}];
    if (known == 0) known = largest_magnitude(x) / 127.0f;
    return known;
  }

  /// Integers of a cache mean multiples of a scale that leaves the first tokens some headroom.
  static void set_cache_scale(Cache& cache, const OpInputs& inputs, std::size_t used) {
    float most = 0;
    for (std::size_t i = 0; i + 1 < used; ++i) most = std::max(most, largest_magnitude(inputs[i]));
    constexpr float headroom = 1.25f;
    cache.view.key_scale = cache.view.value_scale = std::max(most * headroom / 127.0f, 1e-30f);
    cache.has_scale = true;
  }

  /// Ids as indices into a rank's part of the vocabulary.
  Buffer shifted_ids(const Buffer& ids, const Parameter& table, std::int64_t rank) {
    const std::int64_t first = shard_begin(table.shard, 0, rank);
    const std::int64_t count = ids.bytes / bytes_of(1, ids.dtype);
    ids_.resize(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      ids_[static_cast<std::size_t>(i)] = index_at(ids, i) - first;
    }
    return {static_cast<std::byte*>(static_cast<void*>(ids_.data())), count * 8, DType::i64, {}};
  }

  static constexpr std::size_t most_tables = 4;

  /// Tables of cos and sin for every position that there may be.
  struct RotaryRows {
    std::vector<float> frequencies;
    double scale = 0;
    DType dtype = DType::f32;
    AlignedMemory cos, sin;
    Buffer cos_buffer, sin_buffer;
  };

  RotaryRows& rotary_rows(const RotaryTable& op, const Buffer& frequencies) {
    const auto* numbers = static_cast<const float*>(data_of(frequencies));
    const auto count = static_cast<std::size_t>(op.dim / 2);
    for (const auto& rows : rotary_) {
      if (rows->scale == op.scale && rows->dtype == op.dtype && rows->frequencies.size() == count &&
          std::equal(numbers, numbers + count, rows->frequencies.begin())) {
        return *rows;
      }
    }
    // Frequencies that depend on the length (dynamic scaling) replace each other.
    if (rotary_.size() == most_tables) rotary_.erase(rotary_.begin());
    auto rows = std::make_unique<RotaryRows>();
    rows->frequencies.assign(numbers, numbers + count);
    rows->scale = op.scale;
    rows->dtype = op.dtype;
    RotaryTable all = op;
    all.cached = false;
    all.tokens = op.table_positions;
    KernelResult result = make_kernel(all, options_.context);
    TCAST_CHECK(result.kernel != nullptr, result.unsupported);
    const std::int64_t bytes = bytes_of(op.table_positions * op.dim, op.dtype);
    rows->cos = AlignedMemory(bytes);
    rows->sin = AlignedMemory(bytes);
    rows->cos_buffer = {rows->cos.data(), bytes, op.dtype, {}};
    rows->sin_buffer = {rows->sin.data(), bytes, op.dtype, {}};
    std::vector<std::int64_t> positions(static_cast<std::size_t>(op.table_positions));
    for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int64_t>(i);
    const Buffer inputs[] = {{static_cast<std::byte*>(static_cast<void*>(positions.data())),
                              op.table_positions * 8,
                              DType::i64,
                              {}},
                             frequencies};
    const Buffer outputs[] = {rows->cos_buffer, rows->sin_buffer};
    result.kernel->run({inputs, outputs, scratch_.span(), nullptr});
    rotary_.push_back(std::move(rows));
    return *rotary_.back();
  }

  // --- collectives -------------------------------------------------------------------------------

  void exchange(const Collective& op, const Op& use, std::vector<CallBuffers>& ranks) {
    TCAST_CHECK(options_.ranks % (op.group_size * op.stride) == 0, "groups make up all ranks");
    for (std::int64_t first = 0; first < options_.ranks; ++first) {
      if (first / op.stride % op.group_size != 0) continue;
      std::vector<CallBuffers*> group;
      for (std::int64_t i = 0; i < op.group_size; ++i) {
        group.push_back(&ranks[static_cast<std::size_t>(first + i * op.stride)]);
      }
      switch (op.kind) {
        case CollectiveKind::all_reduce:
          all_reduce(use, group);
          break;
        case CollectiveKind::all_gather:
          all_gather(use, group);
          break;
        case CollectiveKind::slice:
          slice(use, group);
          break;
        case CollectiveKind::all_to_all:
          if (op.returns) {
            to_tokens(use, group);
          } else {
            to_experts(use, group);
          }
          break;
        case CollectiveKind::reduce_scatter:
          throw InternalError("no step traces a reduce-scatter");
      }
    }
  }

  using Group = std::vector<CallBuffers*>;

  static void all_reduce(const Op& use, const Group& group) {
    const Buffer& shape_of_all = (*group[0])[use.outputs[0]];
    const std::int64_t count = shape_of_all.bytes / bytes_of(1, shape_of_all.dtype);
    parallel_ranges(count, 1 << 14, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t i = begin; i < end; ++i) {
        float sum = 0;
        for (const CallBuffers* rank : group) sum += float_at((*rank)[use.inputs[0]], i);
        for (CallBuffers* rank : group) {
          void* data = (*rank)[use.outputs[0]].data;
          if (shape_of_all.dtype == DType::bf16) {
            static_cast<Bf16*>(data)[i] = to_bf16(sum);
          } else {
            static_cast<float*>(data)[i] = sum;
          }
        }
      }
    });
  }

  static void all_gather(const Op& use, const Group& group) {
    const auto ranks = static_cast<std::int64_t>(group.size());
    for (CallBuffers* rank : group) {
      const Buffer& target = (*rank)[use.outputs[0]];
      const Buffer& part = (*rank)[use.inputs[0]];
      const bool columns = part.shape.rank() == 2 && target.shape.rank() == 2 &&
                           target.shape[1] == part.shape[1] * ranks;
      const std::int64_t rows = columns ? part.shape[0] : 1;
      const std::int64_t piece = part.bytes / rows;
      for (std::int64_t i = 0; i < ranks; ++i) {
        const Buffer& source = (*group[static_cast<std::size_t>(i)])[use.inputs[0]];
        for (std::int64_t row = 0; row < rows; ++row) {
          const std::int64_t place = (row * ranks + i) * piece;
          // The last parts of an uneven division end with padding.
          const std::int64_t bytes = std::clamp<std::int64_t>(target.bytes - place, 0, piece);
          std::copy_n(source.data + row * piece, bytes, target.data + place);
        }
      }
    }
  }

  static void slice(const Op& use, const Group& group) {
    for (std::size_t i = 0; i < group.size(); ++i) {
      const Buffer& source = (*group[i])[use.inputs[0]];
      const Buffer& target = (*group[i])[use.outputs[0]];
      const std::int64_t begin = static_cast<std::int64_t>(i) * target.bytes;
      const std::int64_t held = std::clamp<std::int64_t>(source.bytes - begin, 0, target.bytes);
      std::copy_n(source.data + std::min(begin, source.bytes), held, target.data);
      std::fill_n(target.data + held, target.bytes - held, std::byte{0});
    }
  }

  /// Where the rows of (expert, sender) stand among those of the rank that holds the expert, in
  /// rows.
  struct Exchange {
    std::int64_t experts = 0;
    std::int64_t per_rank = 0;
    std::vector<std::vector<std::int64_t>> sent;   ///< [sender][expert]: rows
    std::vector<std::vector<std::int64_t>> begin;  ///< [sender][expert]: place at the receiver
  };

  static Exchange plan_exchange(const Op& use, const Group& group) {
    Exchange plan;
    const auto ranks = static_cast<std::int64_t>(group.size());
    plan.experts = (*group[0])[use.inputs[1]].shape.elements();
    plan.per_rank = ceil_div(plan.experts, ranks);
    for (const CallBuffers* rank : group) {
      std::vector<std::int64_t>& counts = plan.sent.emplace_back();
      for (std::int64_t i = 0; i < plan.experts; ++i) {
        counts.push_back(index_at((*rank)[use.inputs[1]], i));
      }
    }
    plan.begin.assign(group.size(),
                      std::vector<std::int64_t>(static_cast<std::size_t>(plan.experts), 0));
    std::int64_t place = 0;
    for (std::int64_t expert = 0; expert < plan.experts; ++expert) {
      const auto e = static_cast<std::size_t>(expert);
      if (expert % plan.per_rank == 0) place = 0;
      for (std::size_t sender = 0; sender < group.size(); ++sender) {
        plan.begin[sender][e] = place;
        place += plan.sent[sender][e];
      }
    }
    return plan;
  }

  /// Calls move(sender, receiver, row at the sender, row at the receiver, rows) for every expert.
  template <class Move>
  static void for_each_expert(const Exchange& plan, const Move& move) {
    for (std::size_t sender = 0; sender < plan.sent.size(); ++sender) {
      std::int64_t row = 0;
      for (std::int64_t expert = 0; expert < plan.experts; ++expert) {
        const auto e = static_cast<std::size_t>(expert);
        const std::int64_t rows = plan.sent[sender][e];
        if (rows > 0) {
          move(sender, static_cast<std::size_t>(expert / plan.per_rank), row, plan.begin[sender][e],
               rows);
        }
        row += rows;
      }
    }
  }

  static void to_experts(const Op& use, const Group& group) {
    const Exchange plan = plan_exchange(use, group);
    for (std::size_t receiver = 0; receiver < group.size(); ++receiver) {
      const Buffer& counts = (*group[receiver])[use.outputs[1]];
      for (std::int64_t i = 0; i < plan.per_rank; ++i) {
        std::int64_t sum = 0;
        const auto expert =
            receiver * static_cast<std::size_t>(plan.per_rank) + static_cast<std::size_t>(i);
        for (const auto& sent : plan.sent) sum += expert < sent.size() ? sent[expert] : 0;
        set_index(counts, i, sum);
      }
    }
    // Room that no row takes must not look like one to whoever looks for the largest value.
    for (CallBuffers* rank : group) {
      const Buffer& target = (*rank)[use.outputs[0]];
      std::fill_n(target.data, target.bytes, std::byte{0});
    }
    for_each_expert(plan, [&](std::size_t sender, std::size_t receiver, std::int64_t from,
                              std::int64_t to, std::int64_t rows) {
      const Buffer& source = (*group[sender])[use.inputs[0]];
      const Buffer& target = (*group[receiver])[use.outputs[0]];
      const std::int64_t row = bytes_of(source.shape[1], source.dtype);
      TCAST_CHECK((to + rows) * row <= target.bytes, "room for all rows that a rank may receive");
      std::copy_n(source.data + from * row, rows * row, target.data + to * row);
    });
  }

  static void to_tokens(const Op& use, const Group& group) {
    const Exchange plan = plan_exchange(use, group);
    for_each_expert(plan, [&](std::size_t sender, std::size_t receiver, std::int64_t from,
                              std::int64_t to, std::int64_t rows) {
      const Buffer& source = (*group[receiver])[use.inputs[0]];
      const Buffer& target = (*group[sender])[use.outputs[0]];
      const std::int64_t row = bytes_of(source.shape[1], source.dtype);
      std::copy_n(source.data + to * row, rows * row, target.data + from * row);
    });
  }

  // --- times -------------------------------------------------------------------------------------

  void note_time(const Region& region, std::uint32_t region_index, std::size_t index, const Op& op,
                 const PreparedOp& ready, double seconds) {
    const Phase phase = graph_->workload.phase;
    auto [found, is_new] = times_.try_emplace({phase, region_index, index});
    OpTime& time = found->second;
    if (is_new) {
      time.phase = phase;
      time.name = std::string(name_of(op.record));
      time.op_class = class_of(op.record);
      time.module = path_of(region, op.scope);
      if (ready.kernel != nullptr) time.implementation = ready.kernel->implementation();
    }
    ++time.calls;
    time.total_s += seconds;
  }

  ParameterPath path_;
  ExecutorOptions options_;
  HostDTypes host_;
  WorstOp worst_;
  Program programs_[2];  ///< by phase
  Program* last_ = nullptr;
  const Graph* graph_ = nullptr;  ///< during a run
  GraphLiveness liveness_;        ///< of the graph prepared last
  std::vector<AlignedMemory> arenas_;
  std::vector<AlignedMemory> values_;
  AlignedMemory scratch_;
  std::int64_t arena_bytes_ = 0;  ///< of each rank, as the next ones
  std::int64_t value_bytes_ = 0;
  std::int64_t scratch_bytes_ = 0;
  /// Bytes that needed() has been asked about.
  struct Foreseen {
    std::map<WeightKey, std::int64_t> weights;
    std::map<CacheKey, std::int64_t> caches;
    std::map<std::vector<float>, std::int64_t> tables;  ///< by frequencies
    bool tables_change = false;                         ///< from pass to pass
    std::int64_t packing_bytes = 0;
    std::int64_t check_bytes = 0;
    std::int64_t logits_bytes = 0;
  };
  Foreseen foreseen_;
  MemoryPool long_lived_;  ///< weights and caches
  std::map<WeightKey, Buffer> weights_;
  std::map<CacheKey, Cache> caches_;
  std::vector<std::unique_ptr<RotaryRows>> rotary_;
  /// By layer, module, conversion inside it, rank.
  std::map<std::tuple<std::int64_t, std::string, std::int64_t, std::int64_t>, float> fixed_scales_;
  std::vector<std::int64_t> ids_;
  std::map<std::int64_t, Logits> logits_;  ///< of the last run, by depth
  std::vector<std::string> notes_;
  std::map<std::tuple<Phase, std::uint32_t, std::size_t>, OpTime> times_;
};

Executor::Executor(ParameterPath path, ExecutorOptions options)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(options))) {}
Executor::~Executor() = default;

ExecutorMemory Executor::needed(const Graph& graph, std::int64_t limit_bytes) {
  return impl_->needed(graph, limit_bytes);
}
void Executor::prepare(const Graph& graph) { impl_->prepare(graph); }
void Executor::run(const Graph& graph, const std::vector<std::vector<std::int64_t>>& token_ids,
                   const FollowingIds& following) {
  impl_->run(graph, token_ids, following);
}
std::vector<float> Executor::logits(std::int64_t rank, std::int64_t depth) const {
  return impl_->logits(depth).values.at(static_cast<std::size_t>(rank));
}
Shape Executor::logits_shape(std::int64_t depth) const { return impl_->logits(depth).shape; }
std::vector<OpTime> Executor::times() const { return impl_->times(); }
void Executor::reset_times() { impl_->reset_times(); }
const WorstOp& Executor::worst_op() const { return impl_->worst_op(); }
ExecutorMemory Executor::memory() const { return impl_->memory(); }
const std::vector<std::string>& Executor::notes() const { return impl_->notes(); }
double Executor::weight_bytes_per_pass() const { return impl_->weight_bytes_per_pass(); }

}  // namespace tcast
