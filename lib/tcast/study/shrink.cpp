#include "tcast/study/shrink.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/base/units.h"
#include "tcast/cost/memory.h"
#include "tcast/cost/op_cost.h"
#include "tcast/model/attention.h"
#include "tcast/model/decoder.h"
#include "tcast/model/tree_check.h"
#include "tcast/study/verification.h"
#include "tcast/transform/pipeline.h"

// Nothing here knows a model type: a smaller config is right when the model builds and transforms.

namespace tcast {
namespace {

/// Seconds that one machine with two cores takes for all executions of a model; more is too slow.
constexpr double most_seconds = 4;
constexpr double most_patience_s = 600;  // when nothing smaller can be had
constexpr double executions = 11;
constexpr double steps = 9;
constexpr double quantized_steps = 2;        // quantize_model and what follows
constexpr double seconds_per_weight = 6e-9;  // to generate and to pack
constexpr double seconds_per_flop = 1.0 / 20e9;
constexpr double seconds_per_checked_flop = 1.0 / 0.25e9;  // of plain loops
constexpr double seconds_per_weight_read = 4 / 10e9;       // in f32

constexpr std::int64_t small_vocabulary = 8192;
constexpr std::int64_t least_vocabulary = 512;
constexpr std::int64_t most_divisor = 128;

/// About size / divisor: a multiple of `unit`, at least `least` if the size is.
std::int64_t part_of(std::int64_t size, std::int64_t divisor, std::int64_t unit,
                     std::int64_t least) {
  if (unit < 1 || size % unit != 0) return size;
  const std::int64_t part = std::max(ceil_div(size, divisor), std::min(least, size));
  return std::min(size, ceil_div(part, unit) * unit);
}

/// The largest power of two up to 128 that divides a width: what kernels and blocks of quantization
/// scales are made for.
std::int64_t width_unit(std::int64_t width) {
  std::int64_t unit = 128;
  while (width % unit != 0) unit /= 2;
  return unit;
}

/// What the attention and expert modules of a model say of themselves; 0: nothing.
struct Facts {
  std::int64_t layers = 0;
  std::int64_t layers_of_every_kind = 0;  ///< the first ones that show each
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t experts = 0;
  std::string experts_key;  ///< under which the config has their number
  std::int64_t top_k = 0;
  std::int64_t groups = 1;
  std::int64_t topk_groups = 1;
};

Facts facts_of(const TransformerModel& model) {
  Facts facts;
  const MoeFieldNames& moe = model.profile().moe_field_names;
  facts.experts_key = model.profile().moe_num_experts_key.back();
  walk(model.root(), [&](const Module& module, const ModulePath&) {
    const auto note = [&module](std::int64_t& fact, std::string_view attribute) {
      fact = std::max(fact, module.int_attribute(attribute).value_or(0));
    };
    if (dynamic_cast<const AttentionModule*>(&module) != nullptr) {
      note(facts.kv_heads, "num_kv_heads");
      note(facts.head_dim, "head_dim");
    } else if (module.int_attribute(moe.top_k)) {
      note(facts.experts, "num_experts");
      note(facts.top_k, moe.top_k);
      note(facts.groups, "n_group");
      note(facts.topk_groups, "topk_group");
    } else if (dynamic_cast<const LayerList*>(&module) != nullptr) {
      std::vector<const Module*> kinds;
      for (const auto& layer : module.children()) {
        const bool known = std::any_of(kinds.begin(), kinds.end(), [&](const Module* kind) {
          return same_structure(*kind, *layer);
        });
        if (known) continue;
        kinds.push_back(layer.get());
        facts.layers_of_every_kind = layer->members().first + 1;
      }
      facts.layers = module.list_size();
    }
  });
  return facts;
}

std::optional<std::int64_t> size_in(const HfConfig& config, std::string_view key) {
  const std::optional<Node> node = config.node(key);
  if (!node || !node->is_scalar() || node->is_string()) return std::nullopt;
  try {
    return node->as_int();
  } catch (const Error&) {
    return std::nullopt;  // 4.5, true
  }
}

/// Sizes for a model whose widths are about those of `config` over `divisor`.
ConfigSizes widths(const HfConfig& config, const Facts& facts, const ParallelOptions& parallel,
                   std::int64_t divisor) {
  ConfigSizes sizes;
  const std::int64_t tp = parallel.tp;
  const std::int64_t heads = config.get_size("num_attention_heads");
  const std::int64_t kv_heads = facts.kv_heads > 0 ? facts.kv_heads : heads;
  // Key and value heads first, then the query heads that share one.
  const std::int64_t few_kv =
      part_of(kv_heads, divisor, kv_heads % tp == 0 ? tp : kv_heads, 2 * tp);
  const std::int64_t sharing = heads / kv_heads;
  const std::int64_t few_sharing =
      part_of(sharing, std::max<std::int64_t>(1, divisor * few_kv / kv_heads),
              kv_heads % tp == 0 ? 1 : sharing, 2);
  const std::int64_t few_heads = few_kv * few_sharing;
  sizes.emplace_back("num_attention_heads", few_heads);
  if (facts.kv_heads > 0 || config.has("num_key_value_heads")) {
    sizes.emplace_back("num_key_value_heads", few_kv);
  }

  const std::int64_t hidden = config.get_size("hidden_size");
  const bool by_heads = !config.has("head_dim") && facts.head_dim * heads == hidden;
  const std::int64_t unit =
      hidden % heads == 0 ? std::lcm(width_unit(hidden), few_heads) : width_unit(hidden);
  sizes.emplace_back("hidden_size", by_heads ? facts.head_dim * few_heads
                                             : part_of(hidden, divisor, unit, 2 * unit));
  for (const char* key :
       {"intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size",
        "dense_intermediate_size", "intermediate_size_mlp", "q_lora_rank", "kv_lora_rank"}) {
    const std::optional<std::int64_t> size = size_in(config, key);
    if (!size || *size < 1) continue;
    // What a rank holds stays a multiple of the unit where it is one: blocks of scales stay whole.
    const std::int64_t unit_of_size = width_unit(*size);
    const std::int64_t step = *size % (unit_of_size * tp) == 0
                                  ? unit_of_size * tp
                                  : std::lcm(unit_of_size, *size % tp == 0 ? tp : 1);
    sizes.emplace_back(key, part_of(*size, divisor, step, step));
  }
  return sizes;
}

/// Parameters of a model, every entry of its lists.
std::int64_t weights_of(const TransformerModel& model) {
  std::int64_t weights = 0;
  walk(model.root(), [&](const Module& module, const ModulePath& path) {
    for (const Parameter& parameter : module.parameters()) {
      weights =
          checked_add(weights, checked_mul(parameter.shape.elements(), path.count(), "weights"));
    }
  });
  return weights;
}

/// What executing a model takes.
struct Load {
  double seconds = 0;  ///< of all executions
  double flops = 0;    ///< of one
  std::int64_t weight_bytes = 0;
  std::int64_t activation_bytes = 0;

  bool fits(std::int64_t most_bytes, double most) const {
    return std::max(weight_bytes, activation_bytes) <= most_bytes && seconds <= most;
  }
};

/// Operations of a forward pass; makes `activation_bytes` as large as its activations are.
double flops_of(const TransformerModel& model, std::int64_t requests, std::int64_t query_length,
                std::int64_t context_length, std::int64_t& activation_bytes) {
  Workload work;
  work.phase = context_length > 0 ? Phase::decode : Phase::prefill;
  work.batch = requests;
  work.query_length = query_length;
  work.context_length = context_length;
  work.executes = true;
  Graph graph;
  model.trace(work, graph);
  activation_bytes = std::max(activation_bytes, MemoryPlanner().peak_of(graph).bytes);
  double flops = 0;
  const std::vector<std::int64_t> calls = graph.calls_per_region();
  for (std::uint32_t i = 0; i < graph.region_count; ++i) {
    for (const Op& op : graph.regions[i].ops) {
      flops += static_cast<double>(calls[i]) * work_of(op.record).flops();
    }
  }
  return flops;
}

Load load_of(const TransformerModel& model, const ShrinkRequest& request,
             const std::vector<RequestLengths>& lengths, double checked_executions) {
  Load load;
  const std::int64_t weights = weights_of(model);
  load.weight_bytes = checked_mul(weights, bytes_of(1, DType::f32), "weights");
  double seconds = seconds_per_weight * static_cast<double>(weights);
  const std::int64_t step = request.lengths.tokens_per_step;
  try {
    for (const RequestLengths& one : lengths) {
      load.flops += flops_of(model, request.requests, one.input_length, 0, load.activation_bytes);
      if (one.decode_steps == 0) continue;
      const auto decode_steps = static_cast<double>(one.decode_steps);
      const std::int64_t context = one.input_length + (one.decode_steps - 1) * step;
      load.flops +=
          decode_steps * flops_of(model, request.requests, step, context, load.activation_bytes);
      seconds += decode_steps * seconds_per_weight_read * static_cast<double>(weights);
    }
  } catch (const Error&) {
    // Of more operators than a graph has, untransformed: far too many to execute.
    load.seconds = std::numeric_limits<double>::infinity();
    return load;
  }
  seconds += seconds_per_flop * load.flops;
  load.seconds = executions * seconds + checked_executions * seconds_per_checked_flop * load.flops;
  return load;
}

std::vector<std::string> changes_of(const HfConfig& config, const Facts& facts,
                                    const ModelInputs& before, const ModelInputs& after) {
  std::vector<std::string> changes;
  const std::optional<std::int64_t>& layers = after.options.num_hidden_layers;
  if (layers && layers != before.options.num_hidden_layers) {
    changes.push_back(fmt::format("{} of {} layers", *layers, facts.layers));
  }
  for (const auto& [key, size] : after.sizes) {
    std::int64_t old = size_in(config, key).value_or(0);
    if (key == "num_key_value_heads" && facts.kv_heads > 0) old = facts.kv_heads;
    if (key == facts.experts_key) old = facts.experts;
    if (size == old) continue;
    if (key == facts.experts_key) {
      changes.push_back(fmt::format("{} of {} experts", size, old));
    } else {
      changes.push_back(fmt::format("{} {} -> {}", key, old, size));
    }
  }
  return changes;
}

/// Sizes of the next smaller model: of divisor 0 the config's, of 1 fewer experts and a smaller
/// vocabulary, then widths over the divisor as well.
ConfigSizes smaller_sizes(const HfConfig& text, const Facts& facts, const ParallelOptions& parallel,
                          const ShrinkRequest& request, std::int64_t divisor) {
  ConfigSizes sizes;
  if (divisor >= 1) {
    const std::int64_t vocabulary = text.get_size("vocab_size");
    if (!request.keeps_vocabulary) {
      sizes.emplace_back("vocab_size", std::min(vocabulary, std::max(least_vocabulary,
                                                                     small_vocabulary / divisor)));
    }
    if (facts.experts > 0) {
      // Twice as many as a token chooses, and enough of them in the groups that it looks at.
      const std::int64_t in_groups =
          ceil_div(facts.top_k, std::max<std::int64_t>(1, facts.topk_groups)) * facts.groups;
      const std::int64_t least = std::max({2 * facts.top_k, 2 * facts.groups, in_groups});
      sizes.emplace_back(facts.experts_key, part_of(facts.experts, facts.experts,
                                                    std::lcm(facts.groups, parallel.ep), least));
    }
  }
  if (divisor >= 2) {
    for (auto& size : widths(text, facts, parallel, divisor)) sizes.push_back(std::move(size));
  }
  return sizes;
}

/// Whether a transformed model is going to be executed in its own precision as well.
bool is_narrow(const TransformerModel& model) {
  try {
    return narrowest_dtype(model) != DType::f32;
  } catch (const Error&) {
    return true;  // too large to be traced: smaller ones have to be all the faster
  }
}

/// Adds those of `moves` to a smaller model after which it still can be built and transformed and
/// has the boundary where it was moved to.
void move_boundaries(const HfConfig& config, const std::vector<BoundaryMove>& moves,
                     const std::vector<Boundary>& deployed, Shrunk& result) {
  result.boundaries = moved(deployed, boundaries_of(load_model(config, result.inputs)), {});
  std::vector<BoundaryMove> done;
  for (const BoundaryMove& move : moves) {
    ModelInputs inputs = result.inputs;
    for (auto& size : move.sizes()) inputs.sizes.push_back(std::move(size));
    done.push_back(move);
    try {
      TransformerModel model = load_model(config, inputs);
      std::vector<Boundary> boundaries = moved(deployed, boundaries_of(model), done);
      transform(model);
      const bool there =
          std::any_of(boundaries.begin(), boundaries.end(), [&move](const Boundary& boundary) {
            return boundary.name == move.name && boundary.at == move.to;
          });
      if (there) {
        result.inputs = std::move(inputs);
        result.boundaries = std::move(boundaries);
        for (const BoundaryMove::Change& change : move.changes) {
          result.changes.push_back(fmt::format("{} {} -> {}", change.key, change.from, change.to));
        }
        continue;
      }
    } catch (const Error&) {
      // The boundary stays where it is, and is listed as not crossed.
    }
    done.pop_back();
  }
}

}  // namespace

Shrunk shrink(const HfConfig& config, const ModelInputs& inputs, const ShrinkRequest& request) {
  TransformerModel whole = load_model(config, inputs);
  require_traceable_as_built(whole);
  const HfConfig text = whole.config();  // of the text model, if there is more
  const Facts facts = facts_of(whole);
  const std::vector<Boundary> deployed = boundaries_of(whole);
  const std::vector<BoundaryMove> moves = moves_of(text, deployed, request.lengths);
  std::vector<Boundary> near = deployed;
  for (Boundary& boundary : near) {
    for (const BoundaryMove& move : moves) {
      if (move.name == boundary.name && move.from == boundary.at) boundary.at = move.to;
    }
  }
  const std::vector<RequestLengths> lengths = lengths_across(near, request.lengths);
  Load load;
  double checked_executions = inputs.options.dtype == DType::f32 ? 0 : steps;
  const auto fits = [&](const TransformerModel& model) {
    load = load_of(model, request, lengths, checked_executions);
    return load.fits(request.most_bytes, most_seconds);
  };
  bool small = weights_of(whole) <= request.most_bytes / bytes_of(1, DType::f32) && fits(whole);
  // What cannot be transformed as it is has nothing to show when it is smaller.
  transform(whole);
  if (checked_executions == 0 && is_narrow(whole)) {
    checked_executions = quantized_steps;
    load.seconds += checked_executions * seconds_per_checked_flop * load.flops;
    small = small && load.fits(request.most_bytes, most_seconds);
  }

  Shrunk result;
  result.inputs = inputs;
  result.warnings = whole.warnings();
  const auto finish = [&] {
    result.changes = changes_of(text, facts, inputs, result.inputs);
    move_boundaries(config, moves, deployed, result);
    return result;
  };
  if (small) return finish();

  if (!inputs.options.num_hidden_layers && facts.layers > 0) {
    result.inputs.options.num_hidden_layers =
        std::min(facts.layers, std::max<std::int64_t>(2, facts.layers_of_every_kind));
  }
  std::string reason;
  for (std::int64_t divisor = 0; divisor <= most_divisor;
       divisor = std::max<std::int64_t>(1, 2 * divisor)) {
    result.inputs.sizes = smaller_sizes(text, facts, inputs.options.parallel, request, divisor);
    try {
      TransformerModel model = load_model(config, result.inputs);
      small = fits(model);
      if (small || (divisor == most_divisor && load.fits(request.most_bytes, most_patience_s))) {
        transform(model);
        return finish();
      }
    } catch (const Error& error) {
      reason = error.what();  // this size does not divide
    }
  }
  std::string hint = "choose fewer layers with --num-hidden-layers, or shorter or fewer requests";
  if (!load.fits(request.most_bytes, most_patience_s)) {
    throw Error(
        fmt::format(
            "{}: no small enough model of this kind: {} layer(s) with sizes divided by {} hold "
            "{} of weights and {} of activations and take about {} to compare; {} and {} would do",
            config.file(), result.inputs.options.num_hidden_layers.value_or(facts.layers),
            most_divisor, format_bytes(static_cast<double>(load.weight_bytes)),
            format_bytes(static_cast<double>(load.activation_bytes)), format_seconds(load.seconds),
            format_bytes(static_cast<double>(request.most_bytes)), format_seconds(most_patience_s)),
        std::move(hint));
  }
  throw Error(
      fmt::format("{}: no smaller model of this kind can be built: {}", config.file(), reason),
      std::move(hint));
}

}  // namespace tcast
