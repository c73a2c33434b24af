#include "tcast/study/routing_log.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <utility>

#include "tcast/base/error.h"
#include "tcast/exec/kernels/reference.h"
#include "tcast/exec/kernels/router.h"

namespace tcast {
namespace {

using Experts = std::vector<std::int64_t>;

/// Row `row` of a matrix with `columns` columns.
Buffer row_of(const Buffer& matrix, std::int64_t row, std::int64_t columns) {
  const std::int64_t bytes = bytes_of(columns, matrix.dtype);
  return {matrix.data + row * bytes, bytes, matrix.dtype, {}};
}

float largest_magnitude(const std::vector<float>& values) {
  float most = std::numeric_limits<float>::min();
  for (const float value : values) most = std::max(most, std::abs(value));
  return most;
}

/// By how much `chosen` was ahead of `expected`, relative to the largest score.
double gap_between(const Route& op, const RouterChoice& by, const Experts& chosen,
                   const Experts& expected) {
  Experts added;
  Experts missing;
  std::set_difference(chosen.begin(), chosen.end(), expected.begin(), expected.end(),
                      std::back_inserter(added));
  std::set_difference(expected.begin(), expected.end(), chosen.begin(), chosen.end(),
                      std::back_inserter(missing));
  const auto size = static_cast<std::size_t>(op.experts / op.groups);
  const auto group_of = [&](std::int64_t expert) {
    return by.groups[static_cast<std::size_t>(expert) / size];
  };
  const auto score_of = [&](std::int64_t expert) {
    return by.experts[static_cast<std::size_t>(expert)];
  };
  // A group that was not looked at: the groups are what was close, or not.
  std::vector<float> ranked = by.groups;
  std::sort(ranked.rbegin(), ranked.rend());
  const float last_group = ranked[static_cast<std::size_t>(op.topk_groups) - 1];
  float behind = 0;
  for (const std::int64_t e : missing) behind = std::max(behind, last_group - group_of(e));
  if (behind > 0) return behind / largest_magnitude(by.groups);
  float best = -std::numeric_limits<float>::infinity();
  float worst = std::numeric_limits<float>::infinity();
  for (const std::int64_t e : added) best = std::max(best, score_of(e));
  for (const std::int64_t e : missing) worst = std::min(worst, score_of(e));
  return std::max(0.0f, best - worst) / largest_magnitude(by.experts);
}

/// Sends a token to `experts`, with the weights that its logits give them: a bias that only they
/// have decides the choice and not the weights.
void send_to(const RoutingCall& call, std::int64_t row, const Experts& experts) {
  Route op = call.op;
  op.tokens = 1;
  op.groups = 1;
  op.topk_groups = 1;
  op.correction_bias = true;
  std::vector<float> bias(static_cast<std::size_t>(op.experts), 0.0f);
  for (const std::int64_t expert : experts) bias[static_cast<std::size_t>(expert)] = 1e6f;
  const Buffer inputs[] = {row_of(call.logits, row, op.experts),
                           {static_cast<std::byte*>(static_cast<void*>(bias.data())),
                            bytes_of(op.experts, DType::f32),
                            DType::f32,
                            {}}};
  const Buffer outputs[] = {row_of(call.weights, row, op.top_k),
                            row_of(call.experts, row, op.top_k)};
  run_reference(op, {inputs, outputs, {}, nullptr});
}

}  // namespace

void RoutingLog::begin_pass(std::size_t pass) {
  pass_ = pass;
  uses_.clear();
}

void RoutingLog::follow(const RoutingCall& call) {
  const std::int64_t use = uses_[{call.layer, call.rank}]++;
  for (std::int64_t row = 0; row < call.tokens; ++row) {
    Experts chosen;
    const Buffer own = row_of(call.experts, row, call.op.top_k);
    for (std::int64_t i = 0; i < call.op.top_k; ++i) {
      chosen.push_back(static_cast<std::int64_t>(number_at(own, i)));
    }
    std::sort(chosen.begin(), chosen.end());
    const Key key{pass_, call.layer, use, call.first_token + row};
    const auto [known, is_new] = choices_.try_emplace(key, chosen);
    if (is_new || known->second == chosen) continue;
    RoutingChange change;
    change.pass = pass_;
    change.token = call.first_token + row;
    change.layer = call.layer;
    change.module = call.module;
    change.expected = known->second;
    change.gap = gap_between(
        call.op, router_choice(call.op, row_of(call.logits, row, call.op.experts), call.bias),
        chosen, known->second);
    change.chosen = std::move(chosen);
    send_to(call, row, known->second);
    changes_.try_emplace(key, std::move(change));
  }
}

std::vector<RoutingChange> RoutingLog::take_changes() {
  std::vector<RoutingChange> list;
  for (auto& [key, change] : changes_) list.push_back(std::move(change));
  changes_.clear();
  return list;
}

}  // namespace tcast
