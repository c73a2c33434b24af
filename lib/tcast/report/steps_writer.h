#pragma once

#include <string>

#include "tcast/base/export.h"
#include "tcast/report/report.h"

namespace tcast {

/// What each step of the pipeline did, for a person: a table with a line for each step, then for
/// each step the modules that it changed (equal changes grouped, list members as ranges), those
/// that it left alone and why, its warnings, and every figure of the model that it moved, against
/// the step before; at last the same for all steps together. At most 100 columns, no colours; a
/// group names a few of its paths, so that the length does not grow with the number of layers.
/// Every step must have its figures.
TCAST_API std::string write_steps_table(const Report& report);

}  // namespace tcast
