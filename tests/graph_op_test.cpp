#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tcast/graph/op.h"

namespace tcast {
namespace {

const OperatorDefinition my_operator{.name = "my_operator"};

struct Row {
  OpRecord record;
  std::string name;
  OpClass op_class;
  std::string description;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> table = {
      {MatMul{.m = 512, .n = 4096, .k = 1024}, "matmul", OpClass::matmul,
       "m=512 n=4096 k=1024 bf16*bf16->bf16"},
      {MatMul{.m = 4, .n = 2, .k = 3}, "matmul", OpClass::matvec, "m=4 n=2 k=3 bf16*bf16->bf16"},
      {MatMul{.m = 5, .n = 2, .k = 3}, "matmul", OpClass::matmul, "m=5 n=2 k=3 bf16*bf16->bf16"},
      {GroupedMatMul{.experts = 8, .distinct_experts = 3, .rows = 12, .n = 2, .k = 3},
       "grouped_matmul", OpClass::grouped_matvec, "experts=3/8 rows=12 n=2 k=3 bf16*bf16->bf16"},
      {GroupedMatMul{.experts = 8, .distinct_experts = 3, .rows = 13, .n = 2, .k = 3},
       "grouped_matmul", OpClass::grouped_matmul, "experts=3/8 rows=13 n=2 k=3 bf16*bf16->bf16"},
      // S6: expected numbers; the class follows from the expected rows of an expert.
      {GroupedMatMul{.experts = 64, .distinct_experts = 25.8099536, .rows = 103.2, .n = 2, .k = 3},
       "grouped_matmul", OpClass::grouped_matvec,
       "experts=25.81/64 rows=103.2 n=2 k=3 bf16*bf16->bf16"},
      {GroupedMatMul{.experts = 64, .distinct_experts = 25.8099536, .rows = 103.3, .n = 2, .k = 3},
       "grouped_matmul", OpClass::grouped_matmul,
       "experts=25.81/64 rows=103.3 n=2 k=3 bf16*bf16->bf16"},
      {GroupedMatMul{.experts = 4, .distinct_experts = 4, .rows = 12345678, .n = 2, .k = 3},
       "grouped_matmul", OpClass::grouped_matmul,
       "experts=4/4 rows=12345678 n=2 k=3 bf16*bf16->bf16"},
      {MatMul{.batch = 8,
              .m = 1,
              .n = 2,
              .k = 3,
              .weight = DType::i8,
              .output = DType::f32,
              .compute = DType::f32,
              .weight_is_parameter = false,
              .bias = true,
              .weight_scales = scale_per_row,
              .activation_scales = scale_per_row},
       "matmul", OpClass::matvec,
       "batch=8 m=1 n=2 k=3 bf16*i8->f32 compute=f32 bias activations weight_scales=16 "
       "activation_scales=8"},
      {MatMul{.m = 9,
              .n = 200,
              .k = 300,
              .weight_scales = ScaleGrid{128, 128},
              .activation_scales = ScaleGrid{1, 128}},
       "matmul", OpClass::matmul,
       "m=9 n=200 k=300 bf16*bf16->bf16 weight_scales=128x128 activation_scales=1x128"},
      {MatMul{.m = 9,
              .n = 16,
              .k = 256,
              .weight = DType::i4,
              .weight_scales = ScaleGrid{1, 128, DType::f16, DType::i4}},
       "matmul", OpClass::matmul,
       "m=9 n=16 k=256 bf16*i4->bf16 weight_scales=1x128 f16 zero_points=i4"},
      {GroupedMatMul{.experts = 256,
                     .distinct_experts = 200,
                     .rows = 4096,
                     .n = 7168,
                     .k = 2048,
                     .weight_scales = scale_per_row},
       "grouped_matmul", OpClass::grouped_matmul,
       "experts=200/256 rows=4096 n=7168 k=2048 bf16*bf16->bf16 weight_scales=7168"},
      {Attention{.batch = 4,
                 .query_length = 1,
                 .context_length = 100,
                 .heads = 32,
                 .kv_heads = 8,
                 .qk_head_dim = 128,
                 .v_head_dim = 128},
       "attention", OpClass::decode_attention,
       "batch=4 query=1 context=100 heads=32/8 dims=128/128 bf16 cache=bf16"},
      {Attention{.query_length = 5}, "attention", OpClass::attention,
       "batch=1 query=5 context=0 heads=1/1 dims=1/1 bf16 cache=bf16"},
      {Attention{.span = {.causal = false, .window = 3, .chunk = 4},
                 .cache = DType::i8,
                 .value_in_key = true,
                 .sinks = true,
                 .softcap = 50},
       "attention", OpClass::decode_attention,
       "batch=1 query=1 context=0 heads=1/1 dims=1/1 bf16 cache=i8 bidirectional window=3 chunk=4 "
       "value_in_key sinks softcap"},
      {Softmax{.rows = 3, .columns = 4}, "softmax", OpClass::softmax, "rows=3 columns=4 bf16"},
      {Softmax{.rows = 3, .columns = 4, .sink_heads = 1}, "softmax", OpClass::softmax,
       "rows=3 columns=4 bf16 sinks"},
      {Norm{.stage = NormStage::sum_squares, .rows = 3, .width = 4}, "rms_norm", OpClass::norm,
       "rows=3 width=4 bf16 sum_squares"},
      {Norm{.stage = NormStage::scale, .ranks = 2, .rows = 3, .width = 4}, "rms_norm",
       OpClass::norm, "rows=3 width=4 bf16 scale"},
      {Elementwise{.kind = ElementwiseKind::clamped_swiglu,
                   .elements = 12,
                   .packing = Packing::pairs,
                   .width = 4},
       "clamped_swiglu", OpClass::elementwise, "elements=12 pairs bf16"},
      {Elementwise{.kind = ElementwiseKind::gelu_tanh_mul,
                   .elements = 12,
                   .packing = Packing::halves,
                   .width = 4},
       "gelu_tanh_mul", OpClass::elementwise, "elements=12 halves bf16"},
      {Elementwise{.kind = ElementwiseKind::clamp, .elements = 12}, "clamp", OpClass::elementwise,
       "elements=12 bf16"},
      {Elementwise{.kind = ElementwiseKind::tanh, .elements = 12}, "tanh", OpClass::elementwise,
       "elements=12 bf16"},
      {Norm{.rows = 3, .width = 4}, "rms_norm", OpClass::norm, "rows=3 width=4 bf16"},
      {Norm{.kind = NormKind::layer, .rows = 3, .width = 4, .weight = false, .bias = true},
       "layer_norm", OpClass::norm, "rows=3 width=4 bf16 no_weight bias"},
      {Elementwise{.kind = ElementwiseKind::silu_mul, .elements = 12, .second_elements = 12},
       "silu_mul", OpClass::elementwise, "elements=12 second=12 bf16"},
      {Elementwise{.kind = ElementwiseKind::negate, .elements = 12}, "negate", OpClass::elementwise,
       "elements=12 bf16"},
      {Rotary{.tokens = 5, .heads = 6, .head_dim = 128, .rotary_dim = 64, .interleaved = true},
       "rotary", OpClass::rotary, "tokens=5 heads=6 head_dim=128 rotary_dim=64 bf16 interleaved"},
      {RotaryTable{.tokens = 5, .dim = 64}, "rotary_table", OpClass::rotary,
       "tokens=5 dim=64 bf16"},
      {RotaryTable{.tokens = 5, .dim = 64, .cached = true, .table_positions = 4096}, "rotary_table",
       OpClass::rotary, "tokens=5 dim=64 bf16 cached=4096"},
      {Gather{.rows = 5, .width = 64, .table_rows = 1000}, "gather", OpClass::gather,
       "rows=5 width=64 of=1000 bf16"},
      {CacheAppend{.tokens = 5, .width = 64, .cache = DType::f8_e4m3}, "cache_append",
       OpClass::cache, "tokens=5 width=64 bf16->f8_e4m3"},
      {CacheRead{.batch = 2, .tokens = 9, .kv_heads = 3, .head_dim = 64, .cache = DType::i8},
       "cache_read", OpClass::cache, "batch=2 tokens=9 heads=3 head_dim=64 i8->bf16"},
      {Copy{.kind = CopyKind::slice,
            .read_elements = 5,
            .written_elements = 5,
            .parts = {{{.run = 5}}}},
       "slice", OpClass::copy, "read=5 written=5 run=5 bf16->bf16"},
      {Copy{.kind = CopyKind::cast, .read_elements = 5, .written_elements = 5, .to = DType::f32},
       "cast", OpClass::copy, "read=5 written=5 bf16->f32"},
      {Route{.tokens = 5, .experts = 256, .top_k = 8}, "route", OpClass::routing,
       "tokens=5 experts=256 top_k=8 softmax f32"},
      {Route{
           .tokens = 5, .experts = 160, .top_k = 6, .groups = 8, .topk_groups = 3, .group_best = 1},
       "route", OpClass::routing,
       "tokens=5 experts=160 top_k=6 softmax f32 groups=3/8 group_best=1"},
      {Route{.tokens = 5,
             .experts = 256,
             .top_k = 8,
             .score = RouterScore::sigmoid,
             .groups = 8,
             .topk_groups = 4,
             .correction_bias = true,
             .normalize = true},
       "route", OpClass::routing,
       "tokens=5 experts=256 top_k=8 sigmoid f32 groups=4/8 correction_bias normalize"},
      {TopK{.rows = 5, .columns = 256, .k = 8}, "top_k", OpClass::routing,
       "rows=5 columns=256 k=8 f32"},
      {Permute{.tokens = 5, .rows = 40, .width = 64}, "permute", OpClass::routing,
       "tokens=5 rows=40 width=64 bf16"},
      {Combine{.tokens = 5, .rows = 40, .width = 64}, "combine", OpClass::routing,
       "tokens=5 rows=40 width=64 bf16"},
      {Quantize{.rows = 5, .columns = 64}, "quantize", OpClass::quantize,
       "rows=5 columns=64 bf16->i8"},
      {Quantize{.rows = 5, .columns = 64, .group = 128, .to = DType::f8_e4m3}, "quantize",
       OpClass::quantize, "rows=5 columns=64 bf16->f8_e4m3 group=128"},
      {Quantize{.rows = 5, .columns = 64, .group = -1}, "quantize", OpClass::quantize,
       "rows=5 columns=64 bf16->i8 static"},
      {Collective{.bytes = 1024, .group_size = 8}, "all_reduce", OpClass::collective,
       "bytes=1024 ranks=8 bf16"},
      {Collective{.kind = CollectiveKind::all_to_all, .bytes = 1024, .group_size = 8, .stride = 4},
       "all_to_all", OpClass::collective, "bytes=1024 ranks=8 stride=4 bf16"},
      {Collective{.kind = CollectiveKind::slice, .bytes = 1024, .group_size = 8}, "rank_slice",
       OpClass::collective, "bytes=1024 ranks=8 bf16"},
      {CustomOp{.definition = &my_operator, .sizes = {1, 2, 3}}, "my_operator", OpClass::custom,
       "sizes=1,2,3,0,0,0,0,0 bf16"},
      {CustomOp{}, "custom", OpClass::custom, "sizes=0,0,0,0,0,0,0,0 bf16"},
  };
  return table;
}

TEST_CASE("every kind of op has a name, a class and a description") {
  std::set<std::size_t> kinds;
  for (const Row& row : rows()) {
    CHECK(name_of(row.record) == row.name);
    CHECK(class_of(row.record) == row.op_class);
    CHECK(describe(row.record) == row.description);
    kinds.insert(row.record.index());
  }
  CHECK(kinds.size() == std::variant_size_v<OpRecord>);
}

TEST_CASE("different work has a different key") {
  std::set<std::string> keys;
  for (const Row& row : rows()) {
    keys.insert(std::string(name_of(row.record)) + " " + describe(row.record));
  }
  CHECK(keys.size() == rows().size());
}

TEST_CASE("names of classes and kinds are all there and all different") {
  std::set<std::string_view> names;
  for (int i = 0; i < op_class_count; ++i) names.insert(name_of(static_cast<OpClass>(i)));
  CHECK(names.size() == static_cast<std::size_t>(op_class_count));
  CHECK(names.count("") == 0);
  CHECK(name_of(OpClass::custom) == "custom");
  CHECK(name_of(ElementwiseKind::add) == "add");
  CHECK(name_of(ElementwiseKind::gelu_tanh_mul) == "gelu_tanh_mul");
  CHECK(name_of(CopyKind::repeat) == "repeat");
  CHECK(name_of(CollectiveKind::reduce_scatter) == "reduce_scatter");
}

}  // namespace
}  // namespace tcast
