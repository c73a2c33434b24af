#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tcast/base/export.h"
#include "tcast/base/units.h"
#include "tcast/config/options.h"
#include "tcast/model/layout.h"
#include "tcast/model/linear_quantization.h"
#include "tcast/model/module.h"
#include "tcast/model/rope.h"

namespace tcast {

/// y = x W^T + b. Parameters: weight [out, in], bias [out]. Quantized and sharded forms are
/// settings of the same class: what changes is the product that it traces.
class TCAST_API Linear : public ModuleOf<Linear> {
 public:
  Linear(std::int64_t in_features, std::int64_t out_features, bool bias, DType dtype,
         InitRole role = InitRole::matrix);

  enum class Sharding : std::uint8_t { none, columns, rows };
  struct Config {
    std::int64_t in_features = 0;
    std::int64_t out_features = 0;
    std::optional<DType> output_dtype{};  ///< nothing: that of the input
    std::optional<LinearQuantization> quantization{};
    Sharding sharding = Sharding::none;
    RankGroup group{};
    std::vector<ShardSegment> segments{};  ///< of sharded columns
    bool communicate = false;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value input) const override;
  std::string fault() const override;
  /// The head (`lm_head`) is cut along the vocabulary and gathered; others stay whole unless the
  /// block that they belong to cuts them.
  void shard(const Layout& layout, ShardReport& report) override;

  std::int64_t out_features() const { return config_.out_features; }
  std::int64_t in_features() const { return config_.in_features; }
  /// Throws Error when somebody took it away.
  const Parameter& weight() const;
  bool has_bias() const { return find_parameter("bias") != nullptr; }

  /// Logits of a router or a head come out in f32 even when the model is in 16 bit.
  void set_output_dtype(DType dtype) { config_.output_dtype = dtype; }

  /// Stores the weight as `quantization` says and adds its scales, which are cut as the weight is.
  void quantize(const LinearQuantization& quantization);
  const std::optional<LinearQuantization>& quantization() const { return config_.quantization; }

  /// Cuts the outputs over the group; segments are pieces of the output that are cut on their own
  /// (empty: one piece). With `gather`, the results are put together again afterwards.
  void shard_columns(RankGroup group, std::vector<ShardSegment> segments = {}, bool gather = false);
  /// Cuts the inputs over the group; partial results are summed by an all-reduce, unless the caller
  /// does that later (`reduce` false).
  void shard_rows(RankGroup group, bool reduce = true);

  bool is_sharded() const { return config_.sharding != Sharding::none; }

  /// Converts an activation for this linear's product: x itself, or quantized.
  Value prepare_input(Trace& trace, Value x) const;

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  void cut_parameters();
  void name_class();

  Config config_;
};

/// Rows of a table, times `multiplier`. Parameter: weight [rows, width]. Input: ids [tokens];
/// result [tokens, width].
class TCAST_API Embedding : public ModuleOf<Embedding> {
 public:
  Embedding(std::int64_t rows, std::int64_t width, DType dtype, double multiplier = 1);

  struct Config {
    std::int64_t rows = 0;
    std::int64_t width = 0;
    double multiplier = 1;
    RankGroup group{};

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value ids) const override;
  std::string fault() const override;
  void shard(const Layout& layout, ShardReport& report) override;

  /// Cuts the rows (the vocabulary, padded to divide) over the group; the parts are summed.
  void shard_rows(RankGroup group);

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// A row for each position, learned with the model. Parameter: weight [positions, width]. Input:
/// positions [tokens]; result [tokens, width].
class TCAST_API PositionEmbedding : public ModuleOf<PositionEmbedding> {
 public:
  PositionEmbedding(std::int64_t positions, std::int64_t width, DType dtype);

  struct Config {
    std::int64_t positions = 0;
    std::int64_t width = 0;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  /// Throws Error when the sequence is longer than the table.
  Value forward(Trace& trace, Value positions) const override;
  std::string fault() const override;

  std::int64_t positions() const { return config_.positions; }

 private:
  Config config_;
};

/// RMSNorm or LayerNorm over the last `width` elements. Parameters: weight, [bias].
class TCAST_API Normalization : public ModuleOf<Normalization> {
 public:
  Normalization(std::string class_name, NormKind kind, std::int64_t width, double epsilon,
                bool bias, double weight_offset, DType dtype);

  struct Config {
    NormKind kind = NormKind::rms;
    std::int64_t width = 0;
    double epsilon = 0;
    double weight_offset = 0;
    RankGroup group{};

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  Value forward(Trace& trace, Value input) const override;
  std::string fault() const override;

  std::int64_t width() const { return config_.width; }

  /// Cuts a row over the group, whose ranks then share their sums of squares. RMS only.
  void shard_width(RankGroup group, const std::vector<ShardSegment>& segments);

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// cos and sin of rotary position embeddings; hands them to the attention modules under the name of
/// its set. Takes part in the forward without an input of its own.
class TCAST_API RotaryEmbedding : public ModuleOf<RotaryEmbedding> {
 public:
  RotaryEmbedding(std::string class_name, std::string set, std::int64_t rotary_dim,
                  RopeParameters rope, DType dtype);

  struct Config {
    std::string set;
    std::int64_t rotary_dim = 0;
    RopeParameters rope{};
    DType dtype = DType::bf16;
    bool cached = false;

    bool operator==(const Config&) const = default;
  };
  const Config& config() const { return config_; }

  /// Traces the tables for this pass and sets them.
  void provide(Trace& trace, Value positions) const;

  /// From now on rows are looked up in tables made once.
  void cache_tables();
  bool cached() const { return config_.cached; }

  const std::string& set() const { return config_.set; }
  std::int64_t rotary_dim() const { return config_.rotary_dim; }
  /// What inverse_frequencies() makes the angles from.
  const RopeParameters& rope() const { return config_.rope; }

 protected:
  void list_attributes(std::vector<Attribute>& list) const override;

 private:
  Config config_;
};

/// cap * tanh(x / cap) in three passes, as eager code computes it; x itself when cap is 0.
TCAST_API Value softcapped(Trace& trace, Value x, double cap);

}  // namespace tcast
