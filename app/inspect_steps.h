#pragma once

#include <cstddef>
#include <string>

#include "app/command.h"
#include "app/options.h"

namespace tcast {

/// `tcast inspect --steps`: what each step of the pipeline changed and what that bought, for whole
/// requests on a device. Returns how many warnings the result has. Throws Error.
std::size_t inspect_steps(const std::string& config_path, const ModelInputs& inputs,
                          const WorkloadInputs& workload, const std::string& device_name,
                          OutputInputs& output, Streams streams);

}  // namespace tcast
