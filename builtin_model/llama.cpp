// Llama 1 to 3, and the many checkpoints published under its name (Yi, TinyLlama, MiniCPM, ...): a
// pre-norm decoder with grouped-query attention, rotary embeddings and a SwiGLU feed-forward block.
// attention_bias puts a bias on all four projections, mlp_bias on all three.
#include "tcast/custom_model.h"

TCAST_REGISTER_ARCHITECTURE("llama")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Llama");
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  spec.mlp_bias = context.config.get_or<bool>("mlp_bias", false);
  return tcast::build_decoder(std::move(spec), context);
}
