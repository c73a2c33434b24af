#include "tcast/exec/memory.h"

#include <utility>

#include <fmt/format.h>
#include <sys/mman.h>

#include "tcast/base/error.h"
#include "tcast/base/text.h"

namespace tcast {

AlignedMemory::AlignedMemory(std::int64_t bytes) : bytes_(bytes) {
  TCAST_CHECK(bytes >= 0, "size of memory");
  if (bytes == 0) return;
  void* data = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    throw Error(fmt::format("cannot allocate {}", format_bytes(static_cast<double>(bytes))),
                "use a smaller model or workload, or a machine with more memory");
  }
  // Advice only: without huge pages everything works, slower.
  madvise(data, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
  data_ = static_cast<std::byte*>(data);
}

AlignedMemory::AlignedMemory(AlignedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

AlignedMemory& AlignedMemory::operator=(AlignedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

AlignedMemory::~AlignedMemory() {
  if (data_ != nullptr) munmap(data_, static_cast<std::size_t>(bytes_));
}

}  // namespace tcast
