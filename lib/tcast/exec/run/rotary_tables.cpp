#include "tcast/exec/run/rotary_tables.h"

#include <algorithm>

#include "tcast/base/error.h"

namespace tcast {

RotaryTables::Rows RotaryTables::rows(const RotaryTable& op, const Buffer& frequencies,
                                      std::span<std::byte> scratch) {
  const void* const data = frequencies.data;
  const auto* const numbers = static_cast<const float*>(data);
  const auto count = static_cast<std::size_t>(op.dim / 2);
  for (const auto& table : tables_) {
    if (table->scale == op.scale && table->dtype == op.dtype &&
        table->frequencies.size() == count &&
        std::equal(numbers, numbers + count, table->frequencies.begin())) {
      return table->rows();
    }
  }
  // Frequencies that depend on the length (dynamic scaling) replace each other.
  if (tables_.size() == most_tables) tables_.erase(tables_.begin());
  auto table = std::make_unique<Table>();
  table->frequencies.assign(numbers, numbers + count);
  table->scale = op.scale;
  table->dtype = op.dtype;
  RotaryTable all = op;
  all.cached = false;
  all.tokens = op.table_positions;
  KernelResult result = make_kernel(all, context_);
  TCAST_CHECK(result.kernel != nullptr, result.unsupported);
  table->bytes = bytes_of(op.table_positions * op.dim, op.dtype);
  table->cos = AlignedMemory(table->bytes);
  table->sin = AlignedMemory(table->bytes);
  std::vector<std::int64_t> positions(static_cast<std::size_t>(op.table_positions));
  for (std::size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<std::int64_t>(i);
  const Buffer inputs[] = {{static_cast<std::byte*>(static_cast<void*>(positions.data())),
                            op.table_positions * 8,
                            DType::i64,
                            {}},
                           frequencies};
  const Rows rows = table->rows();
  const Buffer outputs[] = {rows.cos, rows.sin};
  result.kernel->run({inputs, outputs, scratch, nullptr});
  tables_.push_back(std::move(table));
  return rows;
}

void RotaryTables::foresee(const RotaryTable& op, const std::vector<float>& frequencies) {
  foreseen_[frequencies] = 2 * bytes_of(op.table_positions * op.dim, op.dtype);
}

std::int64_t RotaryTables::foreseen_bytes() {
  if (known_before_ > 0 && foreseen_.size() > known_before_) change_ = true;
  std::int64_t largest = 0;
  std::int64_t total = 0;
  for (const auto& [frequencies, bytes] : foreseen_) {
    total += bytes;
    largest = std::max(largest, bytes);
  }
  return change_ ? static_cast<std::int64_t>(most_tables) * largest : total;
}

std::int64_t RotaryTables::held_bytes() const {
  std::int64_t total = 0;
  for (const auto& table : tables_) total += table->cos.bytes() + table->sin.bytes();
  return total;
}

}  // namespace tcast
