#include "tcast/cost/collectives.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/base/units.h"

// Cost of collectives after Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication
// Operations in MPICH" (2005), with alpha = latency of a step and beta = 1 / bandwidth of a device:
//
//                    ring (neighbours)                      log (trees, doubling)
//   all_reduce       2 (N-1) alpha + 2 (N-1)/N M beta       2 log N alpha + 2 M beta
//   all_gather         (N-1) alpha +   (N-1)/N M beta         log N alpha + (N-1)/N M beta
//   reduce_scatter     (N-1) alpha +   (N-1)/N M beta         log N alpha + (N-1)/N M beta
//   all_to_all         (N-1) alpha +   (N-1)/N M beta         log N alpha + log N M/2 beta (Bruck)
//                    (pairwise)
//
// M: bytes of the full tensor (all_to_all: of what a rank sends, its own part included).
//
// A group that spans several levels works hierarchically: reduce inside, exchange what is left
// between the units, spread inside; each level uses the algorithm that is cheapest there.

namespace tcast {
namespace {

enum class Algorithm { ring, log };

/// What part of a group meets at one level: `members` units that talk over it.
struct Stage {
  const InterconnectLevel* level = nullptr;
  std::int64_t members = 1;
  double bandwidth = 0;  ///< that a member can use, before the algorithm
  double latency = 0;
};

struct StageCost {
  double seconds = 0;
  Algorithm algorithm = Algorithm::ring;
};

/// The levels at which a group of `group_size` devices `stride` apart really communicates,
/// innermost first. The group starts at the first device of a unit of the outermost level that it
/// needs.
struct Stages {
  Stage stage[Interconnect::max_levels];
  int count = 0;
};

Stages stages_of(const Interconnect& interconnect, const Collective& op, bool ideal) {
  TCAST_CHECK(op.stride > 0, "devices of a group are apart");
  const std::int64_t span = checked_mul(op.group_size - 1, op.stride, "devices of a group") + 1;
  if (span > interconnect.devices()) {
    throw Error(
        fmt::format("{} over {} ranks, {} apart, needs {} connected devices, but the "
                    "interconnect of the device joins {}",
                    name_of(op.kind), op.group_size, op.stride, span, interconnect.devices()),
        "use fewer devices, or a device profile with a further interconnect level");
  }
  Stages stages;
  std::int64_t inner_devices = 1;
  std::int64_t joined = 1;  // members of the group that the levels so far bring together
  for (const InterconnectLevel& level : interconnect.levels) {
    const std::int64_t reach = std::min(ceil_div(level.devices, op.stride), op.group_size);
    const std::int64_t members = ceil_div(reach, joined);
    if (members > 1) {
      TCAST_CHECK(stages.count < Interconnect::max_levels, "interconnects have few levels");
      Stage& stage = stages.stage[stages.count++];
      stage.level = &level;
      stage.members = members;
      stage.bandwidth = level.bandwidth_bytes_per_s * (ideal ? 1 : level.efficiency);
      stage.latency = ideal ? 0 : level.latency_s;
      if (level.kind == LinkKind::full_mesh) {
        // A device has a link to each other unit; of those only the ones into the group are used.
        const std::int64_t units = level.devices / inner_devices;
        stage.bandwidth *=
            static_cast<double>(members - 1) / static_cast<double>(std::max(units, members) - 1);
      }
      joined *= members;
    }
    inner_devices = level.devices;
    if (joined >= op.group_size) break;
  }
  TCAST_CHECK(joined >= op.group_size, "every group inside the interconnect is joined");
  return stages;
}

/// Slow-down of messages to other than neighbours: on a ring they pass through N/4 links on
/// average.
double detour(const Stage& stage) {
  const double members = static_cast<double>(stage.members);
  return stage.level->kind == LinkKind::ring ? std::max(1.0, members / 4) : 1;
}

double log_steps(std::int64_t members) {
  return std::ceil(std::log2(static_cast<double>(members)));
}

double ring_seconds(CollectiveKind kind, const Stage& stage, double bytes) {
  const double n = static_cast<double>(stage.members);
  const double rounds = kind == CollectiveKind::all_reduce ? 2 : 1;
  const double slow = kind == CollectiveKind::all_to_all ? detour(stage) : 1;
  return rounds * ((n - 1) * stage.latency + (n - 1) / n * bytes / stage.bandwidth * slow);
}

double log_seconds(CollectiveKind kind, const Stage& stage, double bytes) {
  const double n = static_cast<double>(stage.members);
  const double steps = log_steps(stage.members);
  const double beta = detour(stage) / stage.bandwidth;
  switch (kind) {
    case CollectiveKind::all_reduce:
      return 2 * steps * stage.latency + 2 * bytes * beta;
    case CollectiveKind::all_gather:
    case CollectiveKind::reduce_scatter:
      return steps * stage.latency + (n - 1) / n * bytes * beta;
    case CollectiveKind::all_to_all:
      return steps * stage.latency + steps * bytes / 2 * beta;
    case CollectiveKind::slice:
      break;
  }
  return 0;
}

StageCost stage_cost(CollectiveKind kind, const Stage& stage, double bytes) {
  const double ring = ring_seconds(kind, stage, bytes);
  const double log = log_seconds(kind, stage, bytes);
  return log < ring ? StageCost{log, Algorithm::log} : StageCost{ring, Algorithm::ring};
}

/// Calls visit(kind, stage, bytes) for every stage of the hierarchical algorithm, in order.
template <class Visitor>
void for_each_step(const Stages& stages, const Collective& op, Visitor&& visit) {
  double bytes = static_cast<double>(op.bytes);
  const int outermost = stages.count - 1;
  switch (op.kind) {
    case CollectiveKind::all_reduce:
      // Reduce-scatter on the way out, all-reduce at the outermost level, all-gather on the way in.
      for (int i = 0; i < outermost; ++i) {
        visit(CollectiveKind::reduce_scatter, stages.stage[i], bytes);
        bytes /= static_cast<double>(stages.stage[i].members);
      }
      visit(CollectiveKind::all_reduce, stages.stage[outermost], bytes);
      for (int i = outermost - 1; i >= 0; --i) {
        bytes *= static_cast<double>(stages.stage[i].members);
        visit(CollectiveKind::all_gather, stages.stage[i], bytes);
      }
      break;
    case CollectiveKind::all_gather:
      // Outermost first: there only each device's own share of its unit's result travels.
      for (int i = 0; i < outermost; ++i) bytes /= static_cast<double>(stages.stage[i].members);
      for (int i = outermost; i >= 0; --i) {
        visit(op.kind, stages.stage[i], bytes);
        if (i > 0) bytes *= static_cast<double>(stages.stage[i - 1].members);
      }
      break;
    case CollectiveKind::reduce_scatter:
      for (int i = 0; i <= outermost; ++i) {
        visit(op.kind, stages.stage[i], bytes);
        bytes /= static_cast<double>(stages.stage[i].members);
      }
      break;
    case CollectiveKind::all_to_all:
      // First to the member of the own unit that has the target's place, then across the units.
      for (int i = 0; i <= outermost; ++i) visit(op.kind, stages.stage[i], bytes);
      break;
    case CollectiveKind::slice:
      break;
  }
}

/// All-to-all without hierarchy: every pair exchanges over the level that joins it, so that each
/// level carries only what is meant for the members first met there.
double direct_all_to_all(const Stages& stages, const Collective& op) {
  double seconds = 0;
  double joined = 1;
  for (int i = 0; i < stages.count; ++i) {
    const Stage& stage = stages.stage[i];
    const double reach =
        std::min(joined * static_cast<double>(stage.members), static_cast<double>(op.group_size));
    const double partners = reach - joined;
    seconds += partners * stage.latency + partners / static_cast<double>(op.group_size) *
                                              static_cast<double>(op.bytes) * detour(stage) /
                                              stage.bandwidth;
    joined = reach;
  }
  return seconds;
}

double hierarchical_seconds(const Stages& stages, const Collective& op) {
  double seconds = 0;
  for_each_step(stages, op, [&seconds](CollectiveKind kind, const Stage& stage, double bytes) {
    seconds += stage_cost(kind, stage, bytes).seconds;
  });
  return seconds;
}

bool direct_is_cheaper(const Stages& stages, const Collective& op, double hierarchical) {
  return op.kind == CollectiveKind::all_to_all && stages.count > 1 &&
         direct_all_to_all(stages, op) < hierarchical;
}

bool is_empty(const Collective& op) {
  return op.group_size <= 1 || op.bytes <= 0 || op.kind == CollectiveKind::slice;
}

}  // namespace

double collective_seconds(const Interconnect& interconnect, const Collective& op, bool ideal) {
  if (is_empty(op)) return 0;
  const Stages stages = stages_of(interconnect, op, ideal);
  const double seconds = hierarchical_seconds(stages, op);
  return direct_is_cheaper(stages, op, seconds) ? direct_all_to_all(stages, op) : seconds;
}

std::string explain_collective(const Interconnect& interconnect, const Collective& op, bool ideal) {
  if (is_empty(op)) return "  network: nothing to exchange\n";
  const Stages stages = stages_of(interconnect, op, ideal);
  const double seconds = hierarchical_seconds(stages, op);
  std::string text;
  if (direct_is_cheaper(stages, op, seconds)) {
    const double direct = direct_all_to_all(stages, op);
    for (int i = 0; i < stages.count; ++i) {
      text += fmt::format("  network: {}, {} units, {} B/s per device, {} per message\n",
                          stages.stage[i].level->name, stages.stage[i].members,
                          format_count(stages.stage[i].bandwidth),
                          format_seconds(stages.stage[i].latency));
    }
    return text + fmt::format(
                      "  network: all_to_all, every pair over the level that joins it: {} "
                      "(hierarchical: {})\n",
                      format_seconds(direct), format_seconds(seconds));
  }
  for_each_step(stages, op, [&text](CollectiveKind kind, const Stage& stage, double bytes) {
    const StageCost cost = stage_cost(kind, stage, bytes);
    const bool all_reduce = kind == CollectiveKind::all_reduce;
    const bool all_to_all = kind == CollectiveKind::all_to_all;
    const bool ring = cost.algorithm == Algorithm::ring;
    const std::string_view formula =
        ring ? (all_reduce ? "2 (N-1) latency + 2 (N-1)/N bytes / bandwidth"
                           : "(N-1) latency + (N-1)/N bytes / bandwidth")
             : (all_reduce   ? "2 log2 N latency + 2 bytes / bandwidth"
                : all_to_all ? "log2 N latency + log2 N bytes/2 / bandwidth"
                             : "log2 N latency + (N-1)/N bytes / bandwidth");
    text += fmt::format(
        "  network: {} over {}, {}: {} with N = {}, latency = {}, bytes = {:.6g}, bandwidth = "
        "{:.6g} B/s = {}\n",
        name_of(kind), stage.level->name, ring ? (all_to_all ? "pairwise" : "ring") : "log",
        formula, stage.members, format_seconds(stage.latency), bytes,
        stage.bandwidth / detour(stage), format_seconds(cost.seconds));
  });
  return text;
}

}  // namespace tcast
