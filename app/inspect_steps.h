#pragma once

#include <string>

#include "app/command.h"
#include "app/options.h"

namespace tcast {

/// `tcast inspect --steps`: what each step of the pipeline changed and what that bought. Returns
/// the exit status. Throws Error.
int inspect_steps(const std::string& config_path, const ModelInputs& model,
                  const OutputInputs& output, Streams streams);

}  // namespace tcast
