#include "tcast/exec/run/collectives.h"

#include <algorithm>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/buffer_values.h"
#include "tcast/exec/threads.h"

namespace tcast {
namespace {

using Group = std::vector<CallBuffers*>;

void all_reduce(const Op& use, const Group& group) {
  const Buffer& shape_of_all = (*group[0])[use.outputs[0]];
  const std::int64_t count = shape_of_all.bytes / bytes_of(1, shape_of_all.dtype);
  parallel_ranges(count, 1 << 14, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      float sum = 0;
      for (const CallBuffers* rank : group) sum += float_at((*rank)[use.inputs[0]], i);
      for (CallBuffers* rank : group) set_float((*rank)[use.outputs[0]], i, sum);
    }
  });
}

void all_gather(const Op& use, const Group& group) {
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

void slice(const Op& use, const Group& group) {
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

Exchange plan_exchange(const Op& use, const Group& group) {
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
void for_each_expert(const Exchange& plan, const Move& move) {
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

void to_experts(const Op& use, const Group& group) {
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

void to_tokens(const Op& use, const Group& group) {
  const Exchange plan = plan_exchange(use, group);
  for_each_expert(plan, [&](std::size_t sender, std::size_t receiver, std::int64_t from,
                            std::int64_t to, std::int64_t rows) {
    const Buffer& source = (*group[receiver])[use.inputs[0]];
    const Buffer& target = (*group[sender])[use.outputs[0]];
    const std::int64_t row = bytes_of(source.shape[1], source.dtype);
    std::copy_n(source.data + to * row, rows * row, target.data + from * row);
  });
}

}  // namespace

void run_collective(const Collective& op, const Op& use, std::vector<CallBuffers>& ranks) {
  const auto count = static_cast<std::int64_t>(ranks.size());
  TCAST_CHECK(count % (op.group_size * op.stride) == 0, "groups make up all ranks");
  for (std::int64_t first = 0; first < count; ++first) {
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

}  // namespace tcast
