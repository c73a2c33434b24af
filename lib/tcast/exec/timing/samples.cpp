#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include <sys/resource.h>

#include "tcast/base/clock.h"
#include "tcast/base/error.h"
#include "tcast/exec/timing/timer.h"

namespace tcast {

std::vector<double> share_budget(std::span<const double> wishes, double budget) {
  std::vector<std::size_t> order(wishes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return wishes[a] < wishes[b]; });
  std::vector<double> result(wishes.size());
  double left = std::max(0.0, budget);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double equal = left / static_cast<double>(order.size() - i);
    result[order[i]] = std::min(wishes[order[i]], equal);
    left -= result[order[i]];
  }
  return result;
}

SampleSummary summarize(std::vector<double> samples) {
  TCAST_CHECK(!samples.empty(), "no samples");
  std::sort(samples.begin(), samples.end());
  const auto quantile = [&](double q) {
    const double place = q * static_cast<double>(samples.size() - 1);
    const auto below = static_cast<std::size_t>(place);
    const std::size_t above = std::min(below + 1, samples.size() - 1);
    return samples[below] + (samples[above] - samples[below]) * (place - std::floor(place));
  };
  SampleSummary summary;
  summary.median = quantile(0.5);
  const double range = quantile(0.75) - quantile(0.25);
  summary.spread = summary.median > 0 ? range / summary.median : 0;
  const auto first = std::lower_bound(samples.begin(), samples.end(), quantile(0.25) - 1.5 * range);
  const auto last = std::upper_bound(first, samples.end(), quantile(0.75) + 1.5 * range);
  summary.mean = std::accumulate(first, last, 0.0) / static_cast<double>(last - first);
  summary.samples = static_cast<int>(samples.size());
  return summary;
}

namespace {

/// The standard error of the median, from the interquartile range of normal samples, is below 1 %
/// after samples long enough to have seen the machine's ups and downs.
bool is_known_well(std::span<const Sample> taken) {
  constexpr std::size_t least_samples = 7;
  constexpr double long_enough_s = 0.05;
  const std::vector<double> samples = undisturbed(taken);
  if (samples.size() < least_samples) return false;
  const SampleSummary summary = summarize(samples);
  const double count = summary.samples;
  return summary.median * count > long_enough_s && 0.93 * summary.spread / std::sqrt(count) < 0.01;
}

}  // namespace

Moment process_moment() {
  Moment now;
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) now.preemptions = usage.ru_nivcsw;
  now.cpu_s = cpu_time_of_process();
  now.time_s = now_s();
  return now;
}

Sample between(const Moment& begin, const Moment& end) {
  return {end.time_s - begin.time_s, end.cpu_s - begin.cpu_s, end.preemptions - begin.preemptions};
}

std::vector<double> undisturbed(std::span<const Sample> samples) {
  constexpr std::size_t least = 3;
  constexpr std::size_t least_part = 4;
  std::vector<double> calm;
  std::vector<double> all;
  for (const Sample& sample : samples) {
    all.push_back(sample.seconds);
    if (sample.preemptions == 0) calm.push_back(sample.seconds);
  }
  return calm.size() >= least && calm.size() * least_part >= all.size() ? calm : all;
}

double stalled_share(std::span<const Sample> samples, int threads) {
  if (samples.empty() || undisturbed(samples).size() < samples.size()) return 0;
  const auto lost_part = [threads](const Sample& sample) {
    const double offered = sample.seconds * threads;
    return offered > 0 ? std::clamp(1 - sample.cpu_s / offered, 0.0, 1.0) : 0.0;
  };
  // Whoever waits gets its turn after some slices of the scheduler.
  constexpr double longest_wait_s = 0.1;
  std::optional<double> calm;
  for (const Sample& sample : samples) {
    if (sample.preemptions == 0) calm = std::min(calm.value_or(1), lost_part(sample));
  }
  const double asleep = calm.value_or(0);
  double stalled_s = 0;
  double all_s = 0;
  for (const Sample& sample : samples) {
    all_s += sample.seconds;
    // One thread that waits makes all of them wait.
    stalled_s += std::min({sample.seconds,
                           sample.seconds * std::max(0.0, lost_part(sample) - asleep) * threads,
                           longest_wait_s * static_cast<double>(sample.preemptions)});
  }
  return all_s > 0 ? stalled_s / all_s : 0;
}

std::vector<Sample> take_samples(const std::function<void()>& before,
                                 const std::function<void()>& run,
                                 const std::function<Moment()>& clock, double limit_s, int most) {
  const double begin = clock().time_s;
  const auto timed = [&] {
    before();
    const Moment start = clock();
    run();
    return between(start, clock());
  };
  const Sample warm_up = timed();
  // What it warms up is nothing against a run this long.
  constexpr double long_run_s = 0.005;
  if (warm_up.seconds > std::max(limit_s, long_run_s)) return {warm_up};
  std::vector<Sample> samples;
  while (static_cast<int>(samples.size()) < most) {
    const double start = clock().time_s;
    samples.push_back(timed());
    const double now = clock().time_s;
    // No sample that would end too late is begun.
    if (now - begin + (now - start) > limit_s) break;
    if (is_known_well(samples)) break;
  }
  return samples;
}

}  // namespace tcast
