#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tcast/exec/run/executor.h"
#include "tcast/exec/run/program.h"

// Private to this folder: how the ops of a graph are executed.

namespace tcast {

/// Chooses how ops are executed on this processor: dtypes, kernel, operands.
class OpPreparer {
 public:
  OpPreparer(const ExecutorOptions& options, const HostDTypes& host);

  /// Prepares the ops of a region that are not as they were; true when weights have to be bound
  /// again. Throws Error naming op and module path for what cannot be executed.
  bool prepare(const Region& region, PreparedRegion& prepared);

  /// The most that a kernel made so far needs.
  std::int64_t scratch_bytes() const { return scratch_bytes_; }
  /// Dtypes that were replaced, such as "f8_e4m3 -> bf16"; each once.
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  void prepare_op(const Region& region, const Op& op, PreparedOp& ready);
  template <class Product>
  void prepare_product(const Region& region, const Op& op, const Product& original,
                       Product& product, int first_optional, PreparedOp& ready);
  void add_note(const std::string& note);

  KernelContext context_;
  Arithmetic arithmetic_;
  std::int64_t max_sequence_length_;
  HostDTypes host_;
  std::int64_t scratch_bytes_ = 0;
  std::vector<std::string> notes_;
};

}  // namespace tcast
