#pragma once

#include <cstdint>
#include <vector>

#include "tcast/study/generation.h"

namespace tcast {

/// Greedy decoding of requests in lock step. With multi-token prediction each pass takes the last
/// token of a request and a draft of each depth, as it is priced: the model says which drafts are
/// right, then every depth continues from the tokens that are, and predicts the next draft from
/// them and from the drafts of the depths before. Requests that accept more drafts than others wait
/// for them. Whatever is drafted, the generated tokens are those of the model alone; of what a
/// depth has cached, the last rows stem from drafts, and stay when those are wrong.
class GreedyDecoding {
 public:
  /// What a pass has added to every request, equally many tokens.
  struct Pass {
    TokenIds tokens;                ///< [request][token]
    std::vector<LogitRows> logits;  ///< that they were chosen by: [token][request][vocabulary]
  };

  explicit GreedyDecoding(Generation& generation) : generation_(generation) {}

  Pass prompt(const TokenIds& prompts);
  Pass decode();

  /// Drafts that were looked at, and how many of them were the model's own choice, with all before
  /// them.
  std::int64_t drafts() const { return drafts_; }
  std::int64_t accepted() const { return accepted_; }

 private:
  Pass run(const TokenIds& queries, std::int64_t drafts);
  std::int64_t check(const TokenIds& queries, std::int64_t drafts, Pass& pass);
  void append_draft(std::int64_t depth, std::int64_t from_end);

  Generation& generation_;
  TokenIds next_;      ///< what each request goes on with: its last token and the drafts behind it
  TokenIds sequence_;  ///< of the current pass: its tokens that stay, the next one, drafts so far
  std::int64_t drafts_ = 0;
  std::int64_t accepted_ = 0;
};

}  // namespace tcast
