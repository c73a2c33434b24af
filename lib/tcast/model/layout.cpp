#include "tcast/model/layout.h"

#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "tcast/base/error.h"

namespace tcast {

Layout::Layout(const ParallelOptions& parallel)
    : devices_(parallel.devices()), tp_(parallel.tp), ep_(parallel.ep) {
  for (const auto& [name, value] : {std::pair{"--tp", tp_}, std::pair{"--ep", ep_}}) {
    if (value < 1)
      throw Error(fmt::format("{}: expected a whole number >= 1, got {}", name, value));
  }
  if (devices_ % tp_ != 0) {
    throw Error(
        fmt::format("--num-devices {} cannot be divided into groups of --tp {}", devices_, tp_),
        fmt::format("choose a number of devices that is a multiple of {}", tp_));
  }
  if (devices_ % ep_ != 0) {
    throw Error(fmt::format("--ep {} does not divide tp x dp = {} x {} = {}", ep_, tp_,
                            devices_ / tp_, devices_),
                ep_ > devices_
                    ? fmt::format("--num-devices {} gives the experts enough devices", ep_)
                    : fmt::format("choose --ep so that it divides {}", devices_));
  }
  etp_ = tp_ / std::gcd(ep_, tp_);
}

RankGroup Layout::group(ParallelAxis axis) const {
  switch (axis) {
    case ParallelAxis::tp:
      return {tp_, 1};
    case ParallelAxis::cp:
      return {1, tp_};
    case ParallelAxis::dp:
      return {devices_ / tp_, tp_};
    case ParallelAxis::etp:
      return {etp_, 1};
    case ParallelAxis::ep:
      return {ep_, etp_};
    // ep divides tp * dp, and ep / g has no factor in common with tp / g: etp * ep divides it, too.
    case ParallelAxis::edp:
      return {devices_ / (etp_ * ep_), etp_ * ep_};
    case ParallelAxis::pp:
      return {1, devices_};
  }
  throw InternalError("an axis of a layout");
}

}  // namespace tcast
