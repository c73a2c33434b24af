#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/config/options.h"

#include "error_of.h"

using tcast::KvScheme;
using tcast::LinearScheme;

TEST_CASE("names of quantization schemes go both ways") {
  CHECK(tcast::linear_scheme_names() == std::vector<std::string>{"checkpoint", "none", "w8a16",
                                                                 "w8a8_static", "w8a8_dynamic",
                                                                 "fp8"});
  for (const std::string& name : tcast::linear_scheme_names()) {
    CHECK(tcast::name_of(*tcast::parse_linear_scheme(name)) == name);
  }
  CHECK(tcast::parse_linear_scheme("checkpoint") == LinearScheme::checkpoint);
  CHECK(tcast::require_linear_scheme("fp8") == LinearScheme::fp8);
  CHECK_FALSE(tcast::parse_linear_scheme("FP8"));
  CHECK_FALSE(tcast::parse_linear_scheme(""));

  CHECK(tcast::kv_scheme_names() == std::vector<std::string>{"checkpoint", "none", "int8", "fp8"});
  for (const std::string& name : tcast::kv_scheme_names()) {
    CHECK(tcast::name_of(*tcast::parse_kv_scheme(name)) == name);
  }
  CHECK(tcast::require_kv_scheme("fp8") == KvScheme::fp8);
}

TEST_CASE("unknown schemes are told from those that tcast does not have") {
  struct Row {
    const char* name;
    const char* expected;
  };
  const Row rows[] = {
      {"w8a8_dynamc",
       "unknown quantization of linear layers 'w8a8_dynamc' | did you mean 'w8a8_dynamic'?"},
      {"",
       "unknown quantization of linear layers '' | choose one of checkpoint, none, w8a16, "
       "w8a8_static, w8a8_dynamic, fp8"},
      {"\x1b[2J",
       "unknown quantization of linear layers '\\x1b[2J' | choose one of checkpoint, "
       "none, w8a16, w8a8_static, w8a8_dynamic, fp8"},
      {"mxfp4",
       "quantization of linear layers 'mxfp4' is not supported yet | choose one of "
       "checkpoint, none, w8a16, w8a8_static, w8a8_dynamic, fp8"},
      {"w4a16",
       "quantization of linear layers 'w4a16' is not supported yet | choose one of "
       "checkpoint, none, w8a16, w8a8_static, w8a8_dynamic, fp8"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    CHECK(error_of([&] { tcast::require_linear_scheme(row.name); }) == row.expected);
  }
  CHECK(error_of([] { tcast::require_kv_scheme("nvfp4"); }) ==
        "quantization of the KV cache 'nvfp4' is not supported yet | choose one of checkpoint, "
        "none, int8, fp8");
  CHECK(error_of([] { tcast::require_kv_scheme("int4x"); }) ==
        "unknown quantization of the KV cache 'int4x' | choose one of checkpoint, none, int8, fp8");
}
