#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"

namespace tcast {

/// Where a number comes from, best first. Totals are as good as the worst that went into them.
enum class Source : std::uint8_t {
  measured,    ///< timed on this very device for this very operator
  calibrated,  ///< fitted to measurements of the device
  datasheet,   ///< the vendor's figure, or another tool's table of it
  assumed,     ///< an educated guess
};
TCAST_API std::string_view name_of(Source source);

/// How the members of a level are wired; decides how much of a device's bandwidth a part of them
/// can use, and what messages to distant members cost (cost/collectives.h).
enum class LinkKind : std::uint8_t {
  clos,       ///< several stages of switches, full bandwidth between any two members
  full_mesh,  ///< a link of its own to each other member: a part of them uses a part of the links
  ring,       ///< links to two neighbours; distant messages pass through the ones between
  crossbar,   ///< one switch ("switch" in YAML), full bandwidth between any two members
};
TCAST_API std::string_view name_of(LinkKind kind);

/// One level of nested links: the devices of a package, of a node, of a rack, of a cluster.
struct InterconnectLevel {
  std::string name{};
  LinkKind kind = LinkKind::crossbar;
  std::int64_t devices = 1;          ///< that one unit of this level joins, inner levels included
  double bandwidth_bytes_per_s = 0;  ///< of each device into this level, in one direction
  double efficiency = 1;             ///< share of it that large messages reach
  double latency_s = 0;              ///< of one step of a collective algorithm
  Source basis = Source::assumed;
  std::string source{};
};

/// All levels, innermost first. Consecutive devices fill the innermost level first.
struct Interconnect {
  static constexpr int max_levels = 8;
  std::vector<InterconnectLevel> levels{};

  /// Devices that can talk to each other; 1 without any level.
  std::int64_t devices() const { return levels.empty() ? 1 : levels.back().devices; }
};

}  // namespace tcast
