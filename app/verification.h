#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/model/transformer_model.h"

#include "app/generation.h"
#include "app/routing_log.h"

namespace tcast {

/// Tokens that every version of a model is executed on, and how close their logits have to be:
/// max |a - b| / max |b|.
struct VerificationRequest {
  TokenIds prompts;              ///< equally long ones
  std::vector<TokenIds> decode;  ///< for each decode step, equally many tokens per request
  /// Between models that are executed without rounding (Arithmetic::unrounded).
  double tolerance = 1e-4;
  /// Of each kernel that has 8-bit or 16-bit operands, against plain loops over them.
  double kernel_tolerance = 1e-3;
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
  /// Logits of each pass, and for each pass those of every depth of multi-token prediction.
  struct Outcome {
    std::vector<LogitRows> logits;
    std::vector<LogitRows> mtp_logits;
  };

  Outcome execute(const TransformerModel& model, Arithmetic arithmetic);
  /// What depth `depth` embeds in a pass of `count` tokens behind `first` others: the tokens that
  /// follow in the request, whatever the logits say; the prompt again behind the last.
  TokenIds following(std::size_t first, std::size_t count, std::int64_t depth) const;
  void look(const TransformerModel& model, VerifiedStep step);
  void look_between_steps(const TransformerModel& model, const std::string& where);
  static double error_of(const Outcome& outcome, const Outcome& reference);

  VerificationRequest request_;
  std::string hook_;
  TokenIds sequences_;  ///< prompt and decoded tokens of each request
  RoutingLog routing_;  ///< of the untransformed model
  Outcome reference_;
  Outcome previous_;
  std::vector<VerifiedStep> steps_;
  std::vector<std::string> notes_;
  std::int64_t ranks_ = 1;
  WorstOp worst_op_;  ///< of the last execution
};

}  // namespace tcast
