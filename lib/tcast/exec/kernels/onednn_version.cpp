#include <fmt/format.h>
#include <oneapi/dnnl/dnnl.h>

#include "tcast/exec/kernels/kernel.h"

namespace tcast {

std::string onednn_version() {
  const dnnl_version_t* version = dnnl_version();
  return fmt::format("{}.{}.{}", version->major, version->minor, version->patch);
}

std::string onednn_settings() {
  dnnl_fpmath_mode_t mode = dnnl_fpmath_mode_strict;
  dnnl_get_default_fpmath_mode(&mode);
  return fmt::format("isa {:#x} hints {:#x} fpmath {}",
                     static_cast<unsigned>(dnnl_get_effective_cpu_isa()),
                     static_cast<unsigned>(dnnl_get_cpu_isa_hints()), static_cast<int>(mode));
}

}  // namespace tcast
