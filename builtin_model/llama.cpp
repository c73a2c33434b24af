// Llama 1 to 3, and the many checkpoints published under its name (Yi, TinyLlama, MiniCPM, ...): a
// pre-norm decoder with grouped-query attention, rotary embeddings and a SwiGLU feed-forward block.
// attention_bias puts a bias on all four projections, mlp_bias on all three.
#include "tcast/custom_model.h"

namespace {

constexpr tcast::ConfigClass llama_class{
    .name = "LlamaConfig",
    .defaults = R"({
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": null, "head_dim": null, "hidden_act": "silu",
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
    "attention_bias": false, "mlp_bias": false, "rope_theta": 10000, "rope_scaling": null,
    "rope_parameters": null})",
};

}  // namespace

TCAST_REGISTER_CONFIG_CLASS(llama_class, "llama");

TCAST_REGISTER_ARCHITECTURE("llama")
(const tcast::ArchitectureContext& context) {
  tcast::DecoderSpec spec = tcast::read_decoder_spec(context, "Llama");
  spec.qkv_bias = context.config.get_or<bool>("attention_bias", false);
  spec.output_bias = spec.qkv_bias;
  spec.mlp_bias = context.config.get_or<bool>("mlp_bias", false);
  return tcast::build_decoder(std::move(spec), context);
}
