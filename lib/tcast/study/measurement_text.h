#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "tcast/exec/timing/measurement_store.h"

namespace tcast {

/// Most bytes of a text of measurements, and of one of its lines (a measurement has about 600).
inline constexpr std::size_t max_measurements_bytes = std::size_t{128} << 20;
inline constexpr std::size_t max_measurement_bytes = std::size_t{64} << 10;

/// The sound measurements of a store as JSON, a line each, in the order of host and op.
std::string measurements_text(const MeasurementStore& store);

/// The measurements of a text like that. `source` names it in messages. Throws Error with line,
/// column and key for what is no sound measurement.
std::vector<StoredMeasurement> read_measurements(std::string_view text, const std::string& source);

}  // namespace tcast
