#include "tcast/model/rope.h"

#include <cmath>

#include <fmt/format.h>

#include "tcast/base/text.h"

namespace tcast {

std::vector<Attribute> RopeParameters::attributes() const {
  std::vector<Attribute> list = {{"rope_type", type}, {"rope_theta", theta}};
  if (type == "default") return list;
  list.push_back({"factor", factor});
  if (original_max_position_embeddings > 0) {
    list.push_back({"original_max_position_embeddings", original_max_position_embeddings});
  }
  if (type == "llama3") {
    list.push_back({"low_freq_factor", low_freq_factor});
    list.push_back({"high_freq_factor", high_freq_factor});
  }
  if (type == "yarn") {
    list.push_back({"beta_fast", beta_fast});
    list.push_back({"beta_slow", beta_slow});
    if (mscale != 0) list.push_back({"mscale", mscale});
    if (mscale_all_dim != 0) list.push_back({"mscale_all_dim", mscale_all_dim});
  }
  return list;
}

RopeParameters read_rope(const HfConfig& config) {
  RopeParameters rope;
  rope.theta = config.get_or<double>("rope_theta", rope.theta);
  std::string key = "rope_parameters";
  std::optional<HfConfig> scaling = config.nested(key);
  if (!scaling) {
    key = "rope_scaling";
    scaling = config.nested(key);
  }
  if (!scaling) return rope;
  rope.theta = scaling->get_or<double>("rope_theta", rope.theta);
  rope.type =
      scaling->get_or<std::string>("rope_type", scaling->get_or<std::string>("type", "default"));
  const std::vector<std::string> known = {"default", "linear", "dynamic", "llama3", "yarn"};
  bool found = false;
  for (const std::string& name : known) found = found || name == rope.type;
  if (!found) {
    config.fail(key, fmt::format("'{}' is not a kind of rope scaling that tcast knows", rope.type),
                did_you_mean(rope.type, known, fmt::format("known are {}", join(known, ", "))));
  }
  rope.factor = scaling->get_or<double>("factor", rope.factor);
  rope.low_freq_factor = scaling->get_or<double>("low_freq_factor", rope.low_freq_factor);
  rope.high_freq_factor = scaling->get_or<double>("high_freq_factor", rope.high_freq_factor);
  rope.original_max_position_embeddings =
      scaling->get_or<double>("original_max_position_embeddings", 0);
  rope.beta_fast = scaling->get_or<double>("beta_fast", rope.beta_fast);
  rope.beta_slow = scaling->get_or<double>("beta_slow", rope.beta_slow);
  rope.mscale = scaling->get_or<double>("mscale", 0);
  rope.mscale_all_dim = scaling->get_or<double>("mscale_all_dim", 0);
  return rope;
}

double yarn_mscale(double factor, double mscale) {
  if (factor <= 1) return 1;
  return 0.1 * mscale * std::log(factor) + 1;
}

}  // namespace tcast
