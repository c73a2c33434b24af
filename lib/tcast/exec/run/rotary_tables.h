#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/memory.h"

// Private to this folder: rotary tables that live on from pass to pass.

namespace tcast {

/// Tables of cos and sin for every position that there may be, by their frequencies.
class RotaryTables {
 public:
  explicit RotaryTables(KernelContext context) : context_(std::move(context)) {}

  struct Rows {
    Buffer cos;
    Buffer sin;
  };
  /// The tables that an op with RotaryTable::cached reads, made when they are first asked for.
  /// `scratch` is what the kernel of the op needs.
  Rows rows(const RotaryTable& op, const Buffer& frequencies, std::span<std::byte> scratch);

  /// Another graph is looked at: when it has frequencies that the ones before had not, they change
  /// from pass to pass.
  void begin_graph() { known_before_ = foreseen_.size(); }
  /// Notes that rows() is going to be asked for them.
  void foresee(const RotaryTable& op, const std::vector<float>& frequencies);
  std::int64_t foreseen_bytes();
  std::int64_t held_bytes() const;

 private:
  static constexpr std::size_t most_tables = 4;

  struct Table {
    std::vector<float> frequencies;
    double scale = 0;
    DType dtype = DType::f32;
    AlignedMemory cos;
    AlignedMemory sin;
    std::int64_t bytes = 0;  ///< of each

    Rows rows() const { return {{cos.data(), bytes, dtype, {}}, {sin.data(), bytes, dtype, {}}}; }
  };

  KernelContext context_;
  std::vector<std::unique_ptr<Table>> tables_;
  std::map<std::vector<float>, std::int64_t> foreseen_;  ///< bytes by frequencies
  std::size_t known_before_ = 0;
  bool change_ = false;  ///< from pass to pass
};

}  // namespace tcast
