#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tcast {

/// Memory for tensors, owned: aligned to a page, zero, on huge pages where the system offers them.
/// Executor and timer use the same, so that what is timed is what is run.
class AlignedMemory {
 public:
  AlignedMemory() = default;
  /// Throws Error when the system has not that much.
  explicit AlignedMemory(std::int64_t bytes);
  AlignedMemory(AlignedMemory&& other) noexcept;
  AlignedMemory& operator=(AlignedMemory&& other) noexcept;
  ~AlignedMemory();

  std::byte* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }
  std::span<std::byte> span() const { return {data_, static_cast<std::size_t>(bytes_)}; }

 private:
  std::byte* data_ = nullptr;
  std::int64_t bytes_ = 0;
};

}  // namespace tcast
