#pragma once

#include "tcast/exec/timing/measurement.h"

/// A measurement with a value in every field.
inline tcast::Measurement measured(double seconds) {
  tcast::Measurement m;
  m.seconds = seconds;
  m.spread = 0.125;
  m.samples = 7;
  m.threads = 2;
  m.implementation = "tcast:avx2";
  m.onednn_version = "2.6.3";
  m.share = 0.25;
  m.scaled = true;
  m.error = 0.03;
  m.budget_s = 10;
  m.substituted = "f8_e4m3 -> bf16";
  m.stalled_share = 0.5;
  m.pace = {1e9, 2e9, 3e9};
  m.expected_s = 7;
  return m;
}
