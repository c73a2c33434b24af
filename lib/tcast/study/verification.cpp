#include "tcast/study/verification.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"
#include "tcast/base/units.h"
#include "tcast/model/decoder.h"

namespace tcast {
namespace {

/// A choice between experts whose scores differ by less may turn over by rounding: a tenth of what
/// logits may differ by.
constexpr double near_tie = 0.1;

double error_of_rows(const std::vector<LogitRows>& rows, const std::vector<LogitRows>& reference) {
  constexpr double infinite = std::numeric_limits<double>::infinity();
  if (rows.size() != reference.size()) return infinite;
  double most = 0;
  double largest = 0;
  for (std::size_t pass = 0; pass < reference.size(); ++pass) {
    if (rows[pass].size() != reference[pass].size()) return infinite;
    for (std::size_t row = 0; row < reference[pass].size(); ++row) {
      const std::vector<float>& a = rows[pass][row];
      const std::vector<float>& b = reference[pass][row];
      if (a.size() != b.size()) return infinite;
      for (std::size_t i = 0; i < b.size(); ++i) {
        if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return infinite;
        most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
        largest = std::max(largest, std::abs(static_cast<double>(b[i])));
      }
    }
  }
  if (most == 0) return 0;
  return largest > 0 ? most / largest : infinite;
}

void require_usable(const std::vector<LogitRows>& passes) {
  float largest = 0;
  for (const LogitRows& rows : passes) {
    for (const std::vector<float>& row : rows) {
      for (const float value : row) {
        if (!std::isfinite(value)) {
          throw Error("the untransformed model's logits are not finite numbers",
                      "with generated weights this config has no function that could be compared");
        }
        largest = std::max(largest, std::abs(value));
      }
    }
  }
  if (largest > 0) return;
  throw Error("the untransformed model's logits are all zero",
              "with generated weights this config has no function that could be compared");
}

std::string exceeds(double error, double tolerance) {
  return fmt::format("{:.1e} is more than the tolerance of {:.0e}", error, tolerance);
}

std::string other_experts(std::size_t count) {
  return fmt::format("{} token(s) go to other experts, and not by a rounding error", count);
}

}  // namespace

DType narrowest_dtype(const TransformerModel& model) {
  Graph graph;
  Workload work;
  work.query_length = 2;
  work.executes = true;
  model.trace(work, graph);
  DType narrowest = DType::f32;
  const auto look = [&narrowest](DType dtype) {
    if (bits_of(dtype) < bits_of(narrowest)) narrowest = dtype;
  };
  for (std::uint32_t i = 0; i < graph.region_count; ++i) {
    for (const Tensor& tensor : graph.regions[i].tensors) look(tensor.dtype);
    for (const CacheSpec& cache : graph.regions[i].caches) look(cache.dtype);
  }
  return narrowest;
}

std::string to_string(const VerifiedPass& pass) {
  if (pass.decode_step == 0) return fmt::format("the prompt of {} tokens", pass.input_length);
  return fmt::format("decode step {} behind a prompt of {} tokens", pass.decode_step,
                     pass.input_length);
}

std::vector<VerifiedPass> VerificationRequest::passes() const {
  std::vector<VerifiedPass> passes;
  for (const RequestLengths& one : lengths) {
    passes.push_back({one.input_length, 0, 0, one.input_length});
    for (std::int64_t step = 1; step <= one.decode_steps; ++step) {
      const std::int64_t first = one.input_length + (step - 1) * tokens_per_step;
      passes.push_back({one.input_length, step, first, tokens_per_step});
    }
  }
  return passes;
}

Verification::Verification(const TransformerModel& model, VerificationRequest request,
                           std::string hook)
    : request_(std::move(request)), hook_(std::move(hook)), passes_(request_.passes()) {
  reference_ = execute(model, Arithmetic::unrounded);
  routing_.take_changes();
  require_usable(reference_.logits);
  previous_ = reference_;
}

Verification::Outcome Verification::execute(const TransformerModel& model, Arithmetic arithmetic) {
  ExecutorOptions options;
  options.arithmetic = arithmetic;
  // Rounding moves routers as well, so what is rounded goes its own way.
  if (arithmetic == Arithmetic::unrounded) {
    options.on_route = [this](const RoutingCall& call) { routing_.follow(call); };
  }
  std::int64_t longest_prompt = 0;
  for (const RequestLengths& one : request_.lengths) {
    longest_prompt = std::max(longest_prompt, one.input_length);
  }
  Generation generation(model, static_cast<std::int64_t>(request_.tokens.size()),
                        longest_of(request_.lengths, request_.tokens_per_step), std::move(options));
  generation.require_memory(longest_prompt);
  Outcome outcome;
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    const VerifiedPass& pass = passes_[i];
    routing_.begin_pass(i);
    if (pass.decode_step == 0) generation.restart();
    outcome.logits.push_back(generation.step(
        tokens_of(pass, 0), [&](std::int64_t depth) { return tokens_of(pass, depth); }));
    for (std::int64_t depth = 1; depth <= generation.mtp_tokens(); ++depth) {
      LogitRows& last = outcome.mtp_logits.emplace_back();
      for (LogitRows& rows : generation.logits(depth)) last.push_back(std::move(rows.back()));
    }
  }
  ranks_ = generation.ranks();
  worst_op_ = generation.executor().worst_op();
  if (arithmetic == Arithmetic::checked) {
    for (const std::string& note : generation.executor().notes()) {
      if (std::find(notes_.begin(), notes_.end(), note) == notes_.end()) notes_.push_back(note);
    }
  }
  return outcome;
}

TokenIds Verification::tokens_of(const VerifiedPass& pass, std::int64_t depth) const {
  TokenIds ids;
  for (const std::vector<std::int64_t>& all : request_.tokens) {
    std::vector<std::int64_t>& own = ids.emplace_back();
    for (std::int64_t i = 0; i < pass.count; ++i) {
      own.push_back(all[static_cast<std::size_t>(pass.first + i + depth) % all.size()]);
    }
  }
  return ids;
}

std::string Verification::first_difference(const Outcome& outcome) const {
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    const double error = error_of_rows({outcome.logits[i]}, {reference_.logits[i]});
    if (error > request_.tolerance) return ", first after " + to_string(passes_[i]);
  }
  return "";
}

double Verification::error_of(const Outcome& outcome, const Outcome& reference) {
  double error = error_of_rows(outcome.logits, reference.logits);
  if (!reference.mtp_logits.empty()) {
    error = std::max(error, error_of_rows(outcome.mtp_logits, reference.mtp_logits));
  }
  return error;
}

void Verification::before_step(const TransformerModel& model, std::string_view step) {
  if (!hook_.empty()) look_between_steps(model, fmt::format("{}, before {}", hook_, step));
}

void Verification::after_step(const TransformerModel& model, const StepReport& report) {
  VerifiedStep step;
  step.name = report.step;
  step.changed_modules = report.changed_modules;
  step.disabled = report.disabled;
  try {
    look(model, std::move(step));
  } catch (const Error& error) {
    throw Error(fmt::format("after step '{}': {}", report.step, error.what()), error.hint());
  }
}

void Verification::finish(const TransformerModel& model) {
  if (!hook_.empty()) look_between_steps(model, fmt::format("{}, after its last step", hook_));
  for (std::string& cost : cost_of_identity_gaps(model.root())) notes_.push_back(std::move(cost));
}

/// What a hook did outside of steps is listed only when it changed something.
void Verification::look_between_steps(const TransformerModel& model, const std::string& where) {
  if (reference_.logits.empty()) return;
  const std::size_t listed = steps_.size();
  const Outcome before = previous_;
  VerifiedStep step;
  step.name = where;
  look(model, std::move(step));
  if (steps_.back().faults.empty()) {
    steps_.resize(listed);
    previous_ = before;
  }
}

void Verification::look(const TransformerModel& model, VerifiedStep step) {
  Outcome outcome = execute(model, Arithmetic::unrounded);
  if (reference_.logits.empty()) {
    require_usable(outcome.logits);
    reference_ = previous_ = outcome;
  }
  // MTP layers are new: from now on they are compared as well.
  if (reference_.mtp_logits.empty()) {
    reference_.mtp_logits = previous_.mtp_logits = outcome.mtp_logits;
  }
  step.error = error_of(outcome, reference_);
  step.error_to_previous = error_of(outcome, previous_);
  for (RoutingChange& change : routing_.take_changes()) {
    const bool tie = change.gap <= near_tie * request_.tolerance;
    (tie ? step.near_ties : step.wrong_routes).push_back(std::move(change));
  }
  // A step is to blame for what it adds, not for what was wrong before.
  const double before = steps_.empty() ? 0 : steps_.back().error;
  const bool adds = step.error_to_previous > request_.tolerance && std::isfinite(before);
  if (step.error > request_.tolerance && (adds || before <= request_.tolerance)) {
    step.faults.push_back(exceeds(step.error, request_.tolerance) + first_difference(outcome));
  }
  if (!step.wrong_routes.empty() && (steps_.empty() || steps_.back().wrong_routes.empty())) {
    step.faults.push_back(other_experts(step.wrong_routes.size()));
  }
  if (narrowest_dtype(model) != DType::f32) {
    step.deployed.emplace();
    step.deployed->moved = error_of(execute(model, Arithmetic::checked), outcome);
    step.deployed->worst = worst_op_;
    const bool known = !steps_.empty() && steps_.back().deployed &&
                       steps_.back().deployed->worst.error > request_.kernel_tolerance;
    if (worst_op_.error > request_.kernel_tolerance && !known) {
      step.faults.push_back(fmt::format("the kernel of {} in {} is wrong: {}", worst_op_.name,
                                        worst_op_.module,
                                        exceeds(worst_op_.error, request_.kernel_tolerance)));
    }
  }
  previous_ = std::move(outcome);
  steps_.push_back(std::move(step));
}

bool Verification::keeps_function() const {
  return std::all_of(steps_.begin(), steps_.end(),
                     [](const VerifiedStep& step) { return step.faults.empty(); });
}

}  // namespace tcast
