#include <doctest/doctest.h>

#include "tcast/graph/tensor.h"

namespace tcast {
namespace {

TEST_CASE("shapes print as PyTorch's") {
  CHECK(to_string(Shape{}) == "[]");
  CHECK(to_string(Shape{7}) == "[7]");
  CHECK(to_string(Shape{4096, 1024}) == "[4096, 1024]");
}

TEST_CASE("a rank's slice of a parameter") {
  struct Row {
    std::string what;
    Shape shape;
    Shard shard;
    Shape local;
  };
  const Row rows[] = {
      {"whole", {4096, 1024}, {}, {4096, 1024}},
      {"one rank", {4096, 1024}, {.dim = 0, .ranks = 1, .segments = {{4096, 1}}}, {4096, 1024}},
      {"rows", {4096, 1024}, {.dim = 0, .ranks = 8, .segments = {{4096, 8}}}, {512, 1024}},
      {"columns", {4096, 1024}, {.dim = 1, .ranks = 8, .segments = {{1024, 8}}}, {4096, 128}},
      {"no segments", {4096, 1024}, {.dim = 0, .ranks = 8}, {512, 1024}},
      {"padded vocabulary",
       {50257, 768},
       {.dim = 0, .ranks = 4, .segments = {{50257, 4}}},
       {12565, 768}},
      {"fused qkv, kv heads replicated",
       {5120, 4096},
       {.dim = 0, .ranks = 8, .segments = {{4096, 8}, {512, 4}, {512, 4}}},
       {768, 4096}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.what);
    const Parameter parameter{.name = "weight", .shape = row.shape, .shard = row.shard};
    CHECK(to_string(parameter.local_shape()) == to_string(row.local));
    CHECK(parameter.local_bytes() == row.local.elements() * 2);
  }
}

TEST_CASE("a tied parameter takes no memory, a 4-bit one half a byte per element") {
  CHECK(Parameter{.name = "weight", .shape = {8, 8}, .tied_to = "model.embed_tokens.weight"}
            .local_bytes() == 0);
  CHECK(Parameter{.name = "weight", .shape = {3, 3}, .dtype = DType::i4}.local_bytes() == 5);
}

TEST_CASE("a shard along a missing dimension is our bug") {
  const Parameter parameter{.name = "bias", .shape = {8}, .shard = {.dim = 1, .ranks = 2}};
  CHECK_THROWS_AS(static_cast<void>(parameter.local_shape()), InternalError);
}

}  // namespace
}  // namespace tcast
