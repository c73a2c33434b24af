#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "tcast/exec/memory.h"
#include "tcast/exec/run/executor.h"
#include "tcast/exec/run/program.h"

// Private to this folder: the weights of an executor.

namespace tcast {

/// Weights as the kernels want them, generated (decision D6) when they are first asked for. Tensors
/// with the same part of the same parameter share memory, over ranks and phases.
class WeightBank {
 public:
  /// `memory` holds the weights and must outlive the bank.
  WeightBank(ParameterPath path, Arithmetic arithmetic, const HostDTypes& host, MemoryPool& memory);

  /// Input `i` of an op, a parameter, as the kernel wants it or (`packs` false) plain.
  Buffer weight(const Region& region, const Op& op, const PreparedOp& ready, int i,
                std::int64_t layer, std::int64_t rank, bool packs);

  /// Notes that weight() is going to be asked for input `i`, and for its plain form if it is
  /// checked.
  void foresee(const Tensor& tensor, const PreparedOp& ready, int i, std::int64_t layer,
               std::int64_t rank);
  /// What all that was foreseen takes, with the largest plain weight while it is packed.
  std::int64_t foreseen_bytes() const;
  std::int64_t held_bytes() const;

 private:
  /// What a parameter's memory is found by.
  struct Key {
    const Parameter* parameter = nullptr;
    const Parameter* joined = nullptr;
    std::int64_t layer = -1;
    std::int64_t member = -1;  ///< -2: all of the rank's entries side by side
    std::int64_t rank = 0;
    bool dequantized = false;
    std::string layout;

    bool operator<(const Key& o) const {
      return std::tie(parameter, joined, layer, member, rank, dequantized, layout) <
             std::tie(o.parameter, o.joined, o.layer, o.member, o.rank, o.dequantized, o.layout);
    }
  };

  static Key key_of(const Tensor& tensor, const PreparedOp& ready, int i, std::int64_t layer,
                    std::int64_t rank, bool packs);
  DType made_dtype(const Tensor& tensor, const PreparedOp& ready, int i) const;
  std::int64_t plain_bytes(const Tensor& tensor, const PreparedOp& ready, int i) const;
  std::string path_of_parameter(const Parameter& parameter, std::int64_t layer,
                                std::int64_t member) const;
  Buffer make_weight(const Tensor& tensor, const Parameter* scale, std::int64_t layer,
                     std::int64_t rank, DType dtype, Kernel* kernel);
  Buffer make_scales(const Tensor& tensor, const Tensor& weight, std::int64_t layer,
                     std::int64_t rank);
  void fill(const Parameter& parameter, const Parameter* scale, const std::string& path,
            std::int64_t rank, const Buffer& target) const;

  ParameterPath path_;
  Arithmetic arithmetic_;
  HostDTypes host_;
  MemoryPool& memory_;
  std::map<Key, Buffer> weights_;
  std::map<Key, std::int64_t> foreseen_;  ///< bytes
  std::int64_t packing_bytes_ = 0;        ///< foreseen, of the largest plain weight
};

}  // namespace tcast
