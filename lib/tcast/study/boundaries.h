#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tcast/config/hf_config.h"
#include "tcast/model/transformer_model.h"

namespace tcast {

/// A number of tokens from which on a model computes in another way: a request's tokens beyond it
/// lie in another cache block, do not see the first token, are rotated by other angles. Where
/// requests end there (`end`), the last one on the near side of it is the one before the last.
struct Boundary {
  std::string name;           ///< "KV block", "window"
  std::int64_t at = 0;        ///< tokens, in the model that is executed
  std::int64_t deployed = 0;  ///< tokens, in the model as it is deployed
  bool end = false;           ///< no request is longer

  /// Tokens of the longest request that has not crossed it.
  std::int64_t near_side() const { return end ? at - 1 : at; }
};

/// What the modules of an untransformed model and its options say of themselves: the block of the
/// KV cache, windows, chunks, the length that rotary positions were scaled from, learned positions.
std::vector<Boundary> boundaries_of(const TransformerModel& model);

/// How long requests shall be.
struct LengthRequest {
  std::optional<std::int64_t> input_length;  ///< exactly
  std::optional<std::int64_t> decode_steps;  ///< exactly
  std::int64_t tokens_per_step = 1;          ///< of a decode step
  bool decodes = true;                       ///< false: there are no decode steps
};

/// A prompt and the decode steps behind it.
struct RequestLengths {
  std::int64_t input_length = 0;
  std::int64_t decode_steps = 0;
};

/// Requests that cross every boundary of up to 512 tokens: for boundaries that are close to each
/// other one that is decoded from before the first to behind the last, and one whose prompt goes
/// beyond all of them. Of given lengths just that one.
std::vector<RequestLengths> lengths_across(const std::vector<Boundary>& boundaries,
                                           const LengthRequest& request);

/// Tokens of the longest request.
std::int64_t longest_of(const std::vector<RequestLengths>& lengths, std::int64_t tokens_per_step);

/// Whether requests cross a boundary.
struct Crossing {
  Boundary boundary;
  bool decodes = true;     ///< as LengthRequest has it; false: decode_gap is empty
  std::string prompt_gap;  ///< why no prompt does: "no prompt is longer than 12 tokens"; else empty
  std::string decode_gap;  ///< why no decode step does while another one is before it; else empty
};
std::vector<Crossing> crossings_of(const std::vector<Boundary>& boundaries,
                                   const std::vector<RequestLengths>& lengths,
                                   const LengthRequest& request);

/// What to write into a config so that a boundary which is too far away comes nearer.
struct BoundaryMove {
  struct Change {
    std::string key;  ///< "rope_scaling.original_max_position_embeddings"
    std::int64_t from = 0;
    std::int64_t to = 0;
  };
  std::string name;  ///< of the boundary
  std::int64_t from = 0;
  std::int64_t to = 0;
  std::vector<Change> changes;

  ConfigSizes sizes() const;
};

/// The moves that bring windows, chunks, original lengths of rotary positions and learned positions
/// close behind the KV block, or into requests of given lengths. The KV block itself stays.
/// `config`: of the text model. Sizes that hang together keep their ratio.
std::vector<BoundaryMove> moves_of(const HfConfig& config, const std::vector<Boundary>& boundaries,
                                   const LengthRequest& request);

/// The boundaries of a model after `moves`, of which only `executed` shows whether they were
/// possible: where it has none that a deployed one became, that one is infinitely far.
std::vector<Boundary> moved(const std::vector<Boundary>& deployed,
                            const std::vector<Boundary>& executed,
                            const std::vector<BoundaryMove>& moves);

}  // namespace tcast
