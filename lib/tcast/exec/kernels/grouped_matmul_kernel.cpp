#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "tcast/exec/kernels/buffer_values.h"
#include "tcast/exec/kernels/kernels.h"
#include "tcast/exec/memory.h"

namespace tcast {
namespace {

/// One product per expert, of as many rows as the routing sends there.
class GroupedKernel final : public Kernel {
 public:
  GroupedKernel(const GroupedMatMul& op, const KernelContext& context)
      : op_(op), context_(context) {}

  /// Empty when it works, else the reason.
  std::string prepare() {
    // The layout of the weights is that for sixteen rows, whatever the routing does later.
    std::string reason;
    Kernel* const usual = kernel_for(padding, reason);
    if (usual == nullptr) return reason;
    expert_bytes_ = usual->packed_bytes();
    packed_layout_ = usual->packed_layout();
    packed_bytes_ = checked_mul(expert_bytes_, op_.experts, "grouped matmul");
    // Those that most experts will want; others are made when they are needed.
    const double usual_rows = op_.rows / std::max(1.0, op_.distinct_experts);
    for (const double rows : {std::floor(usual_rows), std::ceil(usual_rows)}) {
      const Expert expert =
          expert_for(std::max<std::int64_t>(1, static_cast<std::int64_t>(rows)), reason);
      if (expert.kernel == nullptr) return reason;
      implementation_ = expert.kernel->implementation();
    }
    return {};
  }

  void pack_weight(const Buffer& plain, const Buffer& packed) override {
    if (packed_bytes_ == 0) return Kernel::pack_weight(plain, packed);
    expect(plain, plain.dtype, op_.experts * op_.n * op_.k, "experts");
    TCAST_CHECK(packed.bytes >= packed_bytes_, "packed experts");
    std::string reason;
    Kernel& kernel = *kernel_for(padding, reason);
    const std::int64_t plain_bytes = bytes_of(op_.n * op_.k, plain.dtype);
    for (std::int64_t expert = 0; expert < op_.experts; ++expert) {
      kernel.pack_weight({plain.data + expert * plain_bytes, plain_bytes, plain.dtype, {}},
                         {packed.data + expert * expert_bytes_, expert_bytes_, op_.compute, {}});
    }
  }

  /// One expert may get all rows.
  std::int64_t held_bytes() override {
    std::string reason;
    const std::int64_t m = round_up(std::max<std::int64_t>(1, op_.row_count()), padding);
    // What no kernel can be made for is refused for its size by whoever asks.
    const Kernel* const largest = kernel_for(m, reason);
    return working_bytes(largest == nullptr ? 0 : largest->scratch_bytes(), m, m);
  }

  void run(const KernelArgs& args) override {
    expect_operands(args, op_.bias ? 4 : 3, 1);
    expect_index(args.inputs[2], op_.first_expert + op_.experts, "token counts");
    const Buffer& x = args.inputs[0];
    const Buffer& weight = args.inputs[1];
    const Buffer& y = args.outputs[0];
    const std::int64_t x_row = bytes_of(op_.k, op_.input);
    const std::int64_t y_row = bytes_of(op_.n, op_.output);
    const std::int64_t weight_bytes =
        packed_bytes_ > 0 ? expert_bytes_ : bytes_of(op_.n * op_.k, op_.weight);
    TCAST_CHECK(weight.bytes >= weight_bytes * op_.experts, "stacked experts");
    std::int64_t row = 0;
    for (std::int64_t expert = 0; expert < op_.first_expert; ++expert) {
      row += index_at(args.inputs[2], expert);
    }
    TCAST_CHECK(row >= 0 && y.bytes >= row * y_row, "token counts do not fit the rows");
    std::fill_n(y.data, row * y_row, std::byte{0});
    for (std::int64_t expert = 0; expert < op_.experts; ++expert) {
      const std::int64_t count = index_at(args.inputs[2], op_.first_expert + expert);
      if (count == 0) continue;
      TCAST_CHECK(count > 0 && x.bytes >= (row + count) * x_row && y.bytes >= (row + count) * y_row,
                  "token counts do not fit the rows");
      std::string reason;
      const Expert chosen = expert_for(count, reason);
      TCAST_CHECK(chosen.kernel != nullptr, reason);
      run_expert(chosen, args, expert, row, count, weight_bytes);
      row += count;
    }
    // Rows of other experts, and those of nobody.
    const std::int64_t rows = op_.row_count();
    if (row < rows) std::fill_n(y.data + row * y_row, (rows - row) * y_row, std::byte{0});
  }

 private:
  static constexpr std::int64_t padding = 16;

  /// A kernel and the number of rows that it was made for.
  struct Expert {
    Kernel* kernel = nullptr;
    std::int64_t m = 0;
  };

  /// Few distinct numbers of rows, so that few primitives are made: exact below 16 unless that asks
  /// for another layout of the weight, above that multiples of 16.
  Expert expert_for(std::int64_t rows, std::string& reason) {
    if (rows < padding) {
      Kernel* const exact = kernel_for(rows, reason);
      if (exact != nullptr && exact->packed_layout() == packed_layout_) return {exact, rows};
    }
    const std::int64_t m = round_up(rows, padding);
    Kernel* const padded = kernel_for(m, reason);
    TCAST_CHECK(padded == nullptr || padded->packed_layout() == packed_layout_,
                "layouts of experts differ");
    return {padded, m};
  }

  Kernel* kernel_for(std::int64_t m, std::string& reason) {
    const auto found = kernels_.find(m);
    if (found != kernels_.end()) return found->second.get();
    const MatMul product{.m = m,
                         .n = op_.n,
                         .k = op_.k,
                         .input = op_.input,
                         .weight = op_.weight,
                         .output = op_.output,
                         .compute = op_.compute,
                         .bias = op_.bias,
                         .weight_scales = op_.weight_scales,
                         .activation_scales = op_.activation_scales};
    KernelResult result = make_matmul(product, context_);
    if (result.kernel == nullptr) {
      reason = result.unsupported;
      return nullptr;
    }
    return kernels_.emplace(m, std::move(result.kernel)).first->second.get();
  }

  /// What the product of one expert needs, of `m` rows of which `padded` are copied.
  std::int64_t working_bytes(std::int64_t scratch_bytes, std::int64_t m,
                             std::int64_t padded) const {
    return scratch_bytes + round_up(bytes_of(checked_mul(padded, op_.k), op_.input), 64) +
           round_up(bytes_of(checked_mul(padded, op_.n), op_.output), 64) + round_up(m * 4, 64) +
           round_up(op_.n * 4, 64);
  }

  void run_expert(const Expert& chosen, const KernelArgs& args, std::int64_t expert,
                  std::int64_t row, std::int64_t count, std::int64_t weight_bytes) {
    Kernel& kernel = *chosen.kernel;
    const std::int64_t m = chosen.m;
    const std::int64_t x_row = bytes_of(op_.k, op_.input);
    const std::int64_t y_row = bytes_of(op_.n, op_.output);
    std::byte* x = args.inputs[0].data + row * x_row;
    std::byte* y = args.outputs[0].data + row * y_row;
    const std::int64_t padded = m == count ? 0 : m;
    // Grows to what the largest share of an expert needs, then stays.
    const std::int64_t needed = working_bytes(kernel.scratch_bytes(), m, padded);
    if (memory_.bytes() < needed) memory_ = AlignedMemory(needed);
    ScratchLayout layout(memory_.data());
    const std::span<std::byte> scratch(layout.take<std::byte>(kernel.scratch_bytes()),
                                       static_cast<std::size_t>(kernel.scratch_bytes()));
    if (padded > 0) {
      std::byte* rows = layout.take<std::byte>(m * x_row);
      std::copy(x, x + count * x_row, rows);
      std::fill(rows + count * x_row, rows + m * x_row, std::byte{0});
      x = rows;
      y = layout.take<std::byte>(m * y_row);
    }
    Buffer inputs[5] = {{x, m * x_row, op_.input, {}},
                        {args.inputs[1].data + expert * weight_bytes, weight_bytes, op_.weight, {}},
                        {},
                        {},
                        {}};
    std::size_t used = 2;
    std::size_t next = 3;
    if (op_.weight_scales) {
      const Buffer& all = args.inputs[next++];
      const std::int64_t bytes = bytes_of(op_.weight_scale_count(), all.dtype);
      TCAST_CHECK(all.bytes >= bytes * op_.experts, "scales of experts");
      inputs[used++] = {all.data + expert * bytes, bytes, all.dtype, {}};
    }
    if (op_.bias) {
      float* bias = layout.take<float>(op_.n);
      read_f32(vector_functions(context_.isa), args.inputs[next++], expert * op_.n, op_.n, bias);
      for (std::int64_t i = 0; i < op_.n; ++i) bias[i] *= static_cast<float>(op_.bias_scale);
      inputs[used++] = {
          static_cast<std::byte*>(static_cast<void*>(bias)), op_.n * 4, DType::f32, {}};
    }
    if (op_.activation_scales && op_.activation_scales->is_per_tensor()) {
      inputs[used++] = args.inputs[next];
    } else if (op_.activation_scales) {
      float* scales = layout.take<float>(m);
      read_f32(vector_functions(context_.isa), args.inputs[next], row, count, scales);
      std::fill(scales + count, scales + m, 0.0f);
      inputs[used++] = {static_cast<std::byte*>(static_cast<void*>(scales)), m * 4, DType::f32, {}};
    }
    const Buffer output{y, m * y_row, op_.output, {}};
    kernel.run({{inputs, used}, {&output, 1}, scratch, nullptr});
    if (padded > 0) std::copy(y, y + count * y_row, args.outputs[0].data + row * y_row);
  }

  GroupedMatMul op_;
  KernelContext context_;
  std::int64_t expert_bytes_ = 0;
  std::map<std::int64_t, std::unique_ptr<Kernel>> kernels_;
  AlignedMemory memory_;
};

}  // namespace

KernelResult make_grouped_matmul(const GroupedMatMul& op, const KernelContext& context) {
  if (op.experts <= 0 || op.n <= 0 || op.k <= 0) return unsupported("empty product");
  bytes_of(checked_mul(checked_mul(op.experts, op.n, "experts"), op.k, "experts"), DType::f32);
  auto kernel = std::make_unique<GroupedKernel>(op, context);
  std::string reason = kernel->prepare();
  if (!reason.empty()) return unsupported(std::move(reason));
  return {std::move(kernel), {}};
}

}  // namespace tcast
