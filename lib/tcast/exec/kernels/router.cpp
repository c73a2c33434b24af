#include "tcast/exec/kernels/router.h"

#include <algorithm>

#include "tcast/exec/kernels/kernels.h"

namespace tcast {

void largest(const float* values, std::int64_t count, std::int64_t k, std::int64_t* best) {
  if (k < 1) return;
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (found == k && !(values[i] > values[best[k - 1]])) continue;
    std::int64_t place = found < k ? found++ : k - 1;
    while (place > 0 && values[i] > values[best[place - 1]]) {
      best[place] = best[place - 1];
      --place;
    }
    best[place] = i;
  }
}

void score_experts(const Route& op, const VectorFunctions& functions, const float* bias,
                   float* scores, float* choice, float* groups, float* work) {
  if (op.score == RouterScore::softmax) {
    functions.f32.softmax(scores, scores, 1, op.experts, nullptr, work);
  } else {
    functions.f32.elementwise(ElementwiseKind::sigmoid, scores, scores, scores, op.experts, 1);
  }
  std::copy_n(scores, op.experts, choice);
  for (std::int64_t i = 0; bias != nullptr && i < op.experts; ++i) choice[i] += bias[i];
  if (groups == nullptr) return;
  const std::int64_t size = op.experts / op.groups;
  const std::int64_t count = std::min(op.group_best, size);
  for (std::int64_t group = 0; group < op.groups; ++group) {
    std::int64_t best[2] = {0, 0};
    const float* of_group = choice + group * size;
    largest(of_group, size, count, best);
    groups[group] = of_group[best[0]] + (count > 1 ? of_group[best[1]] : 0.0f);
  }
}

RouterChoice router_choice(const Route& op, const Buffer& logits, const Buffer& bias) {
  const VectorFunctions& functions = vector_functions(host_isa());
  const auto experts = static_cast<std::size_t>(op.experts);
  std::vector<float> scores(experts);
  std::vector<float> work(experts);
  std::vector<float> corrections(bias.data == nullptr ? 0 : experts);
  read_f32(functions, logits, 0, op.experts, scores.data());
  if (bias.data != nullptr) read_f32(functions, bias, 0, op.experts, corrections.data());
  RouterChoice choice;
  choice.experts.resize(experts);
  choice.groups.resize(static_cast<std::size_t>(op.groups));
  score_experts(op, functions, bias.data == nullptr ? nullptr : corrections.data(), scores.data(),
                choice.experts.data(), choice.groups.data(), work.data());
  return choice;
}

}  // namespace tcast
