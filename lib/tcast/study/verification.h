#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/model/transformer_model.h"
#include "tcast/study/boundaries.h"
#include "tcast/study/generation.h"
#include "tcast/study/routing_log.h"

namespace tcast {

/// One forward pass that every version of a model is executed on.
struct VerifiedPass {
  std::int64_t input_length = 0;  ///< of the prompt that the pass is or follows
  std::int64_t decode_step = 0;   ///< 0: the prompt
  std::int64_t first = 0;         ///< token of each request
  std::int64_t count = 0;         ///< tokens of each request
};

/// "the prompt of 140 tokens", "decode step 2 behind a prompt of 126 tokens".
TCAST_API std::string to_string(const VerifiedPass& pass);

/// Requests that every version of a model is executed on, and how close their logits have to be:
/// max |a - b| / max |b|.
struct VerificationRequest {
  TokenIds tokens;                      ///< of each request, as many as the longest needs
  std::vector<RequestLengths> lengths;  ///< each is a prompt of the first tokens and decode steps
  std::int64_t tokens_per_step = 1;
  /// Between models that are executed without rounding (Arithmetic::unrounded).
  double tolerance = 1e-4;
  /// Of each kernel that has 8-bit or 16-bit operands, against plain loops over them.
  double kernel_tolerance = 1e-3;

  std::vector<VerifiedPass> passes() const;
};

/// A model in the precision that it is deployed in.
struct DeployedPrecision {
  WorstOp worst;     ///< of its kernels
  double moved = 0;  ///< by precision alone: against the same model without rounding
};

/// What a step did to the function of a model.
struct VerifiedStep {
  std::string name;
  std::int64_t changed_modules = 0;
  bool disabled = false;
  double error = 0;              ///< against the untransformed model
  double error_to_previous = 0;  ///< against the model before the step
  /// Routers that chose other experts than the untransformed model's: by rounding alone, and not.
  std::vector<RoutingChange> near_ties;
  std::vector<RoutingChange> wrong_routes;
  std::optional<DeployedPrecision> deployed;  ///< if that is not f32
  std::vector<std::string> faults;            ///< why it does not keep the function; else empty
};

/// The narrowest dtype that anything in the graph of a model has, of those that hold numbers. A
/// model with one below f32 is executed a second time in its own precision.
DType narrowest_dtype(const TransformerModel& model);

/// Executes a model after every step of its transformation and compares it with the untransformed
/// one.
class Verification final : public StepObserver {
 public:
  /// Executes the untransformed `model`. `hook` names the hook that is going to transform it: what
  /// it does to the tree between steps is looked at as well; empty: there is none. Throws Error for
  /// what cannot be executed.
  Verification(const TransformerModel& model, VerificationRequest request, std::string hook);

  void before_step(const TransformerModel& model, std::string_view step) override;
  void after_step(const TransformerModel& model, const StepReport& report) override;
  /// To be called when the transformation is over.
  void finish(const TransformerModel& model);

  const std::vector<VerifiedStep>& steps() const { return steps_; }
  bool keeps_function() const;
  std::int64_t ranks() const { return ranks_; }
  /// What the reader should know, such as dtypes that the host lacks.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  /// Logits after each pass, and for each pass those of every depth of multi-token prediction.
  struct Outcome {
    std::vector<LogitRows> logits;
    std::vector<LogitRows> mtp_logits;
  };

  Outcome execute(const TransformerModel& model, Arithmetic arithmetic);
  /// What a pass embeds, and what multi-token-prediction depth `depth` does: the tokens that follow
  /// so far behind in the request, whatever the logits say; the first ones again behind the last.
  TokenIds tokens_of(const VerifiedPass& pass, std::int64_t depth) const;
  void look(const TransformerModel& model, VerifiedStep step);
  void look_between_steps(const TransformerModel& model, const std::string& where);
  /// ", first after " and the first pass whose own logits differ by more than the tolerance; empty
  /// when there is none.
  std::string first_difference(const Outcome& outcome) const;
  static double error_of(const Outcome& outcome, const Outcome& reference);

  VerificationRequest request_;
  std::string hook_;
  std::vector<VerifiedPass> passes_;
  RoutingLog routing_;  ///< of the untransformed model
  Outcome reference_;
  Outcome previous_;
  std::vector<VerifiedStep> steps_;
  std::vector<std::string> notes_;
  std::int64_t ranks_ = 1;
  WorstOp worst_op_;  ///< of the last execution
};

}  // namespace tcast
