#include "tcast/exec/memory.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"
#include "tcast/base/units.h"

namespace tcast {

namespace {

constexpr std::int64_t page = 4096;
constexpr std::int64_t huge_page = std::int64_t{2} << 20;

std::int64_t round_to(std::int64_t bytes, std::int64_t unit) {
  return checked_add(bytes, unit - 1, "memory") / unit * unit;
}

}  // namespace

AlignedMemory::AlignedMemory(std::int64_t bytes) : bytes_(bytes) {
  TCAST_CHECK(bytes >= 0, "size of memory");
  if (bytes == 0) return;
  // Large ones begin on a huge page: what is too much in front and behind is given back at once.
  const std::int64_t before = bytes >= huge_page ? huge_page : 0;
  const std::int64_t size = round_to(bytes, page);
  void* data = mmap(nullptr, static_cast<std::size_t>(checked_add(size, before, "memory")),
                    PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(fmt::format("cannot allocate {}", format_bytes(static_cast<double>(bytes))),
                "use a smaller model or workload, or a machine with more memory");
  }
  auto* begin = static_cast<std::byte*>(data);
  if (before > 0) {
    const auto address = reinterpret_cast<std::uintptr_t>(begin);
    const auto off = static_cast<std::int64_t>(address % static_cast<std::uintptr_t>(huge_page));
    const std::int64_t skipped = off == 0 ? 0 : huge_page - off;
    if (skipped > 0) munmap(begin, static_cast<std::size_t>(skipped));
    begin += skipped;
    if (before > skipped) munmap(begin + size, static_cast<std::size_t>(before - skipped));
  }
  // Advice only: without huge pages everything works, slower.
  madvise(begin, static_cast<std::size_t>(size), MADV_HUGEPAGE);
  data_ = begin;
}

AlignedMemory::AlignedMemory(AlignedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

AlignedMemory& AlignedMemory::operator=(AlignedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

AlignedMemory::~AlignedMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(round_to(bytes_, page)));
}

void touch_pages(std::span<std::byte> memory) {
  for (std::size_t i = 0; i < memory.size(); i += static_cast<std::size_t>(page))
    memory[i] = std::byte{0};
}

void grow(AlignedMemory& memory, std::int64_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = AlignedMemory(bytes);
  touch_pages(memory.span());
}

std::span<std::byte> MemoryPool::take(std::int64_t bytes) {
  constexpr std::int64_t piece = 32 * huge_page;
  const std::int64_t size = round_to(bytes, page);
  if (pieces_.empty() || used_ + size > pieces_.back().bytes()) {
    pieces_.emplace_back(std::max(piece, round_to(size, huge_page)));
    used_ = 0;
  }
  std::byte* const place = pieces_.back().data() + used_;
  used_ += size;
  return {place, static_cast<std::size_t>(bytes)};
}

}  // namespace tcast
