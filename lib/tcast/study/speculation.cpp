#include "tcast/study/speculation.h"

#include <algorithm>
#include <utility>

namespace tcast {
namespace {

std::int64_t best_of(const std::vector<float>& logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

}  // namespace

GreedyDecoding::Pass GreedyDecoding::prompt(const TokenIds& prompts) { return run(prompts, 0); }

GreedyDecoding::Pass GreedyDecoding::decode() {
  return run(TokenIds(next_), static_cast<std::int64_t>(next_[0].size()) - 1);
}

/// One pass over tokens of which the last `drafts` are guessed.
GreedyDecoding::Pass GreedyDecoding::run(const TokenIds& queries, std::int64_t drafts) {
  Pass pass;
  std::int64_t right = 0;  // drafts that stay
  const std::int64_t depths = generation_.mtp_tokens();
  generation_.step(queries, [&](std::int64_t depth) {
    if (depth == 1) {
      right = check(queries, drafts, pass);
    } else {
      append_draft(depth - 1, drafts - right);
    }
    TokenIds following = sequence_;
    for (auto& list : following) {
      list.erase(list.begin(), list.begin() + depth);
      // Behind a wrong draft nothing counts.
      list.resize(queries[0].size(), 0);
    }
    return following;
  });
  if (depths == 0) {
    right = check(queries, drafts, pass);
  } else {
    append_draft(depths, drafts - right);
  }
  generation_.take_back(drafts - right);
  next_.clear();
  for (const auto& list : sequence_) next_.emplace_back(list.end() - 1 - depths, list.end());
  return pass;
}

/// Compares drafts with what the model chooses. Returns how many stay, which is the same number for
/// all requests.
std::int64_t GreedyDecoding::check(const TokenIds& queries, std::int64_t drafts, Pass& pass) {
  const std::vector<LogitRows> logits = generation_.logits();
  const std::size_t known = queries[0].size() - static_cast<std::size_t>(drafts);
  const auto row_after = [&](std::size_t request, std::int64_t right) -> const std::vector<float>& {
    const LogitRows& rows = logits[request];
    return rows[rows.size() - 1 - static_cast<std::size_t>(drafts - right)];
  };
  std::int64_t stay = drafts;
  for (std::size_t i = 0; i < queries.size(); ++i) {
    std::int64_t right = 0;
    while (right < drafts &&
           queries[i][known + static_cast<std::size_t>(right)] == best_of(row_after(i, right))) {
      ++right;
    }
    drafts_ += drafts;
    accepted_ += right;
    stay = std::min(stay, right);
  }
  pass.tokens.resize(queries.size());
  pass.logits.resize(static_cast<std::size_t>(stay) + 1);
  sequence_ = queries;
  for (std::size_t i = 0; i < queries.size(); ++i) {
    sequence_[i].resize(known + static_cast<std::size_t>(stay));
    sequence_[i].push_back(best_of(row_after(i, stay)));
    pass.tokens[i].assign(sequence_[i].end() - 1 - stay, sequence_[i].end());
    for (std::int64_t k = 0; k <= stay; ++k) {
      pass.logits[static_cast<std::size_t>(k)].push_back(row_after(i, k));
    }
  }
  return stay;
}

/// Adds the choice of a depth: its row `from_end` before the last one.
void GreedyDecoding::append_draft(std::int64_t depth, std::int64_t from_end) {
  const std::vector<LogitRows> logits = generation_.logits(depth);
  for (std::size_t i = 0; i < sequence_.size(); ++i) {
    const LogitRows& rows = logits[i];
    sequence_[i].push_back(best_of(rows[rows.size() - 1 - static_cast<std::size_t>(from_end)]));
  }
}

}  // namespace tcast
