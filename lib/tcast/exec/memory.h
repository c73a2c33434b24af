#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tcast {

/// Memory for tensors, owned: aligned to a page (of 2 MiB if it is that large), zero, on huge pages
/// where the system offers them.
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

/// Writes to every page, so that the system finds them now, and not while something is timed. What
/// the first bytes of a page held is lost.
void touch_pages(std::span<std::byte> memory);

/// Replaces memory of less than `bytes` by touched memory of that much; what it held is lost.
void grow(AlignedMemory& memory, std::int64_t bytes);

/// Memory of many tensors that live equally long, cut from few large pieces, so that small ones lie
/// on huge pages as well. Zero, like AlignedMemory; given back all at once.
class MemoryPool {
 public:
  /// A page-aligned piece. Throws Error when the system has not that much.
  std::span<std::byte> take(std::int64_t bytes);

 private:
  std::vector<AlignedMemory> pieces_;
  std::int64_t used_ = 0;  ///< of the last one
};

}  // namespace tcast
