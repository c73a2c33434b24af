#include "tcast/graph/graph.h"

#include <array>

#include "tcast/base/error.h"
#include "tcast/base/units.h"

namespace tcast {

std::int64_t CacheSpec::bytes(std::int64_t batch, std::int64_t sequence_length) const {
  const std::int64_t tokens = round_up(kept_tokens(span, sequence_length), block_size);
  const std::int64_t rows = checked_mul(tokens, batch, "tokens in the cache");
  return bytes_of(checked_mul(rows, elements_per_token, "elements of the cache"), dtype);
}

void Region::clear() {
  tensors.clear();
  ops.clear();
  scopes.clear();
  caches.clear();
  inputs.clear();
  outputs.clear();
  constant_bytes = 0;
}

void Graph::clear() {
  workload = {};
  for (std::uint32_t i = 0; i < region_count; ++i) regions[i].clear();
  region_count = 0;
  calls.clear();
  values.clear();
  inputs.clear();
  outputs.clear();
  constants.clear();
  constant_bytes = 0;
}

std::vector<std::int64_t> Graph::calls_per_region() const {
  std::vector<std::int64_t> counts(region_count, 0);
  for (const Call& call : calls) ++counts[call.region];
  return counts;
}

std::string path_of(const Region& region, std::uint32_t scope) {
  // From the op's scope outwards, then printed the other way round.
  std::vector<std::uint32_t> way;
  for (std::uint32_t at = scope; at < region.scopes.size(); at = region.scopes[at].parent) {
    way.push_back(at);
    TCAST_CHECK(way.size() <= region.scopes.size(), "scopes form a tree");
    if (region.scopes[at].parent == at) break;
  }
  std::string path;
  for (std::size_t i = way.size(); i-- > 0;) {
    const Scope& part = region.scopes[way[i]];
    if (part.name == nullptr || part.name->empty()) continue;  // the root has no name
    if (!path.empty()) path += '.';
    path += part.in_list ? "*" : *part.name;
  }
  return path;
}

}  // namespace tcast
