#include <doctest/doctest.h>

#include "tcast/exec/kernels/kernel.h"
#include "tcast/exec/threads.h"
#include "tcast/exec/timing/host.h"

using namespace tcast;

TEST_CASE("the host is described") {
  const HostFeatures host = host_features();
  CHECK(host.threads == available_threads());
  CHECK(host.isa == host_isa());
  CHECK(host.memory_bytes > 0);
  REQUIRE(host.available_bytes);
  CHECK(*host.available_bytes > 0);
  CHECK(*host.available_bytes <= host.memory_bytes);
  CHECK(host.last_level_bytes >= host.l2_bytes);
  CHECK(host.l2_bytes >= host.l1_bytes);
}

TEST_CASE("instruction sets have names and an order") {
  CHECK(name_of(Isa::baseline) == "baseline");
  CHECK(name_of(Isa::amx_bf16) == "amx_bf16");
  CHECK(Isa::baseline < Isa::avx2);
  CHECK(Isa::avx2 < Isa::avx512);
  CHECK(Isa::avx512 < Isa::avx512_bf16);
  CHECK(Isa::avx512_bf16 < Isa::amx_bf16);
}

TEST_CASE("drift is the largest relative change between canaries") {
  const HostSpeed before{.read_bytes_per_s = 100, .f32_flops_per_s = 50, .bf16_flops_per_s = 10};
  HostSpeed after = before;
  CHECK(drift(before, after) == 0);
  after.f32_flops_per_s = 40;
  CHECK(drift(before, after) == doctest::Approx(0.25));
  CHECK(drift(after, before) == doctest::Approx(0.25));
  after.read_bytes_per_s = 150;
  CHECK(drift(before, after) == doctest::Approx(0.5));
  after = before;
  after.bf16_flops_per_s = 0;  // not measured
  CHECK(drift(before, after) == 0);
}
