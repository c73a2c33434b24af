#include "tcast/study/boundaries.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/units.h"
#include "tcast/model/layers.h"

namespace tcast {
namespace {

constexpr const char* kv_block = "KV block";
constexpr const char* window = "window";
constexpr const char* chunk = "chunk";
constexpr const char* rope_length = "rope original length";
constexpr const char* learned_positions = "learned positions";

constexpr const char* original_key = "original_max_position_embeddings";
constexpr const char* positions_key = "max_position_embeddings";

constexpr std::int64_t farthest = 512;  // tokens; what lies beyond takes too long to execute
/// Short requests say little: what is moved stays behind so many tokens.
constexpr std::int64_t nearest_place = 64;
constexpr std::int64_t close_together = 8;  // tokens between boundaries that one request crosses
constexpr std::int64_t tokens_behind = 10;  // of the last prompt, behind the last boundary
constexpr std::int64_t usual_input_length = 12;
constexpr std::int64_t usual_decode_steps = 2;
constexpr std::int64_t nowhere = std::numeric_limits<std::int64_t>::max();

std::int64_t decode_steps_of(const LengthRequest& request, std::int64_t otherwise) {
  return request.decodes ? request.decode_steps.value_or(otherwise) : 0;
}

/// Near sides of the boundaries that are near enough, ascending, each once.
std::vector<std::int64_t> near_sides(const std::vector<Boundary>& boundaries) {
  std::vector<std::int64_t> sides;
  for (const Boundary& boundary : boundaries) {
    if (boundary.near_side() <= farthest) sides.push_back(boundary.near_side());
  }
  std::sort(sides.begin(), sides.end());
  sides.erase(std::unique(sides.begin(), sides.end()), sides.end());
  return sides;
}

std::int64_t longest_request(const std::vector<Boundary>& boundaries) {
  std::int64_t longest = nowhere;
  for (const Boundary& boundary : boundaries) {
    if (boundary.end) longest = std::min(longest, boundary.at);
  }
  return longest;
}

/// The number under a key of a map as it is written, without marking it as read.
std::optional<double> number_in(const std::vector<std::pair<std::string, Node>>& members,
                                std::string_view key) {
  for (const auto& [name, value] : members) {
    if (name != key || !value.is_scalar() || value.is_string() || value.is_null()) continue;
    try {
      return value.as_number();
    } catch (const Error&) {
      return std::nullopt;  // true
    }
  }
  return std::nullopt;
}

std::int64_t scaled(double value, const BoundaryMove& move) {
  const double ratio = static_cast<double>(move.to) / static_cast<double>(move.from);
  return std::max<std::int64_t>(1, std::llround(value * ratio));
}

/// Original lengths wherever the config has them: in the maps of rope parameters, of which some
/// have one for each layer type, or beside them.
void scale_original_lengths(const HfConfig& config, BoundaryMove& move) {
  const auto scale = [&move](const std::string& path,
                             const std::vector<std::pair<std::string, Node>>& members) {
    if (const std::optional<double> length = number_in(members, original_key)) {
      move.changes.push_back({path + original_key, std::llround(*length), scaled(*length, move)});
    }
  };
  const auto top = config.members();
  scale("", top);
  for (const auto& [name, map] : top) {
    if ((name != "rope_scaling" && name != "rope_parameters") || !map.is_map()) continue;
    scale(name + ".", map.members());
    for (const auto& [layer_type, own] : map.members()) {
      if (own.is_map()) scale(fmt::format("{}.{}.", name, layer_type), own.members());
    }
  }
  // One that the config class has although the file says nothing of it.
  const bool stated = !move.changes.empty();
  const std::optional<double> usual = stated ? std::nullopt : config.find<double>(original_key);
  if (usual) {
    move.changes.push_back({original_key, std::llround(*usual), scaled(*usual, move)});
  }
}

BoundaryMove move_of(const HfConfig& config, const Boundary& boundary, std::int64_t to) {
  BoundaryMove move{boundary.name, boundary.deployed, to, {}};
  if (boundary.name == window) move.changes.push_back({"sliding_window", move.from, to});
  if (boundary.name == chunk) move.changes.push_back({"attention_chunk_size", move.from, to});
  if (boundary.name == rope_length) scale_original_lengths(config, move);
  if (boundary.name == rope_length || boundary.name == learned_positions) {
    if (const auto positions = config.find<double>(positions_key)) {
      move.changes.push_back({positions_key, std::llround(*positions), scaled(*positions, move)});
    }
  }
  return move;
}

}  // namespace

std::vector<Boundary> boundaries_of(const TransformerModel& model) {
  std::vector<Boundary> boundaries;
  const auto add = [&boundaries](const char* name, std::int64_t at, bool end = false) {
    const bool known = std::any_of(
        boundaries.begin(), boundaries.end(),
        [&](const Boundary& boundary) { return boundary.name == name && boundary.at == at; });
    if (at > 0 && !known) boundaries.push_back({name, at, at, end});
  };
  add(kv_block, model.options().kv_block_size);
  walk(model.root(), [&](const Module& module, const ModulePath&) {
    add(window, module.int_attribute("sliding_window").value_or(0));
    add(chunk, module.int_attribute("attention_chunk_size").value_or(0));
    // Dynamic scaling begins at max_position_embeddings, which no other kind of it has.
    for (const char* key : {original_key, positions_key}) {
      const auto length = module.number_attribute(key);
      if (module.string_attribute("rope_type") && length && *length < 1e15) {
        add(rope_length, static_cast<std::int64_t>(*length));
      }
    }
    if (const auto* table = dynamic_cast<const PositionEmbedding*>(&module)) {
      add(learned_positions, table->positions(), true);
    }
  });
  return boundaries;
}

std::vector<RequestLengths> lengths_across(const std::vector<Boundary>& boundaries,
                                           const LengthRequest& request) {
  if (request.input_length) {
    return {{*request.input_length, decode_steps_of(request, usual_decode_steps)}};
  }
  const std::int64_t step = request.tokens_per_step;
  const std::int64_t longest = longest_request(boundaries);
  // Steps that were asked for fit behind a prompt as long as there are positions.
  const std::int64_t longest_prompt =
      std::max<std::int64_t>(1, longest - decode_steps_of(request, 0) * step);
  const auto lengths = [&](std::int64_t prompt, std::int64_t steps) {
    const std::int64_t input = std::clamp<std::int64_t>(prompt, 1, longest_prompt);
    return RequestLengths{input,
                          decode_steps_of(request, std::min(steps, (longest - input) / step))};
  };
  const std::vector<std::int64_t> sides = near_sides(boundaries);
  std::vector<RequestLengths> all;
  for (std::size_t i = 0; i < sides.size();) {
    const std::int64_t first = sides[i++];
    std::int64_t last = first;
    while (i < sides.size() && sides[i] - last <= close_together) last = sides[i++];
    const std::int64_t input = std::max<std::int64_t>(1, first - step - 1);
    all.push_back(lengths(input, ceil_div(last + step + 1 - input, step)));
  }
  all.push_back(lengths(sides.empty() ? usual_input_length : sides.back() + tokens_behind,
                        usual_decode_steps));
  return all;
}

std::int64_t longest_of(const std::vector<RequestLengths>& lengths, std::int64_t tokens_per_step) {
  std::int64_t longest = 0;
  for (const RequestLengths& one : lengths) {
    longest = std::max(longest, one.input_length + one.decode_steps * tokens_per_step);
  }
  return longest;
}

std::vector<Crossing> crossings_of(const std::vector<Boundary>& boundaries,
                                   const std::vector<RequestLengths>& lengths,
                                   const LengthRequest& request) {
  const std::int64_t step = request.tokens_per_step;
  std::int64_t longest_prompt = 0;
  for (const RequestLengths& one : lengths) {
    longest_prompt = std::max(longest_prompt, one.input_length);
  }
  std::vector<Crossing> crossings;
  for (const Boundary& boundary : boundaries) {
    Crossing crossing{boundary, request.decodes, "", ""};
    const std::int64_t near = boundary.near_side();
    if (longest_prompt <= near) {
      crossing.prompt_gap = fmt::format("no prompt is longer than {} tokens", longest_prompt);
    }
    // A decode step has a token before it.
    bool before = near < 1 + step;
    std::int64_t farthest_step = 0;
    for (const RequestLengths& one : lengths) {
      if (one.decode_steps == 0) continue;
      before = before || one.input_length + step <= near;
      farthest_step = std::max(farthest_step, one.input_length + one.decode_steps * step);
    }
    if (!request.decodes) {
      // Nothing is deployed that could cross it.
    } else if (farthest_step == 0) {
      crossing.decode_gap = "there are no decode steps";
    } else if (farthest_step <= near) {
      crossing.decode_gap = fmt::format("no decode step is behind token {}", farthest_step);
    } else if (!before) {
      crossing.decode_gap = "every decode step is behind it";
    }
    crossings.push_back(std::move(crossing));
  }
  return crossings;
}

ConfigSizes BoundaryMove::sizes() const {
  ConfigSizes sizes;
  for (const Change& change : changes) sizes.emplace_back(change.key, change.to);
  return sizes;
}

std::vector<BoundaryMove> moves_of(const HfConfig& config, const std::vector<Boundary>& boundaries,
                                   const LengthRequest& request) {
  std::int64_t place = nearest_place;
  for (const Boundary& boundary : boundaries) {
    if (boundary.name == kv_block && boundary.at <= farthest) place = std::max(place, boundary.at);
  }
  std::int64_t total = 0;  // of given lengths
  if (request.input_length)
    total = longest_of(lengths_across(boundaries, request), request.tokens_per_step);
  std::vector<BoundaryMove> moves;
  for (const char* name : {window, chunk, rope_length, learned_positions}) {
    // The config has one number for the farthest of a kind.
    const Boundary* far = nullptr;
    for (const Boundary& boundary : boundaries) {
      if (boundary.name == name && (far == nullptr || boundary.at > far->at)) far = &boundary;
    }
    if (far == nullptr) continue;
    std::int64_t to = place + 1;
    if (far->end) ++to;
    if (total > 0) to = far->end ? total : std::max<std::int64_t>(1, total / 2);
    if (far->at <= (total > 0 && !far->end ? total - 1 : to)) continue;
    moves.push_back(move_of(config, *far, to));
    if (total == 0) place = to;
  }
  return moves;
}

std::vector<Boundary> moved(const std::vector<Boundary>& deployed,
                            const std::vector<Boundary>& executed,
                            const std::vector<BoundaryMove>& moves) {
  std::vector<Boundary> result = deployed;
  for (Boundary& boundary : result) {
    for (const BoundaryMove& move : moves) {
      if (move.name == boundary.name && move.from == boundary.deployed) boundary.at = move.to;
    }
    const bool there =
        std::any_of(executed.begin(), executed.end(), [&boundary](const Boundary& other) {
          return other.name == boundary.name && other.at == boundary.at;
        });
    if (!there) boundary.at = nowhere;
  }
  return result;
}

}  // namespace tcast
