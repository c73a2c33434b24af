#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// What became of one transformation that was asked for, by an option or by the checkpoint itself
/// (decision D13): of everything that it is about, what was done, what is exempt and why, and what
/// is left over. It is found by looking at the tree, whoever transformed it.
struct Coverage {
  /// Modules of one node of the tree, or one cache.
  struct Part {
    std::string path;
    std::int64_t modules = 0;
    std::int64_t bytes = 0;  ///< of the whole model; of a cache, for one token
    std::string reason{};    ///< why it is exempt; of what is left, "" where nobody says
  };

  std::string request;    ///< what asks for it: "--tp 4", "quantization_config (fp8)"
  std::string_view step;  ///< the standard step whose business it is
  bool by_option = true;
  std::string_view remedy = "leave the option out";  ///< where no step says why it is not done
  std::string_view bytes_per = "";                   ///< " per token", of caches
  Part done{};                                       ///< all together, without a path
  std::vector<Part> exempt{};
  std::vector<Part> left{};

  bool is_complete() const { return left.empty() && done.modules > 0; }
};

/// Every transformation that the options or the checkpoint ask for, and what there is to say of the
/// checkpoint's own scheme.
struct CoverageReport {
  std::vector<Coverage> requests;
  std::vector<std::string> assumptions;
  std::vector<std::string> warnings;  ///< patterns that name nothing, files that are missing
};

/// Throws Error for options that name nothing in the model, and for schemes that tcast does not
/// have.
TCAST_API CoverageReport coverage_of(const TransformerModel& model);

/// What a coverage that is not complete lacks, in one sentence, and why, as the steps' own reports
/// have it, else what could be done about it. `who` transformed the model.
struct Shortfall {
  std::string message;
  std::string hint;  ///< "step 'patch_moe': disabled by --skip-step"
};
TCAST_API Shortfall shortfall_of(const Coverage& coverage, const TransformerModel& model,
                                 const std::string& who);

/// What transform() does at its end: throws Error when something that an option asks for is left
/// over, and adds to the model's warnings what is left over of the checkpoint's own scheme.
void check_coverage(TransformerModel& model, const std::string& who);

}  // namespace tcast
