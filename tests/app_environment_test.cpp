#include <string>

#include <doctest/doctest.h>

#include "app/environment.h"
#include "scratch.h"

TEST_CASE("environment: the default store is in the user's cache directory") {
  struct Row {
    const char* cache;
    const char* home;
    const char* file;
  };
  const Row rows[] = {
      {"/cache", "/home/me", "/cache/tcast/measurements.sqlite"},
      {"relative", "/home/me", "/home/me/.cache/tcast/measurements.sqlite"},
      {"", "/home/me", "/home/me/.cache/tcast/measurements.sqlite"},
      {"relative", "", ""},
  };
  for (const Row& row : rows) {
    CAPTURE(row.cache);
    const Variable cache("XDG_CACHE_HOME", row.cache);
    const Variable home("HOME", row.home);
    CHECK(tcast::default_store_file() == row.file);
  }
}

TEST_CASE("environment: settings of libgomp are part of what timings are kept under") {
  const std::string before = tcast::thread_settings();
  const Variable bind("OMP_PROC_BIND", "close");
  CHECK(tcast::thread_settings().find("; OMP_PROC_BIND=close") != std::string::npos);
  CHECK(before.find("=close") == std::string::npos);
}
