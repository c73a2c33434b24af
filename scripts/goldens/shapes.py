"""Shape goldens of tiny models, from the real classes of transformers on the meta device.

Variants of a model type:
  plain     sizes that divide each other, every structural key given
  odd       sizes that share no factors, head_dim that is not hidden_size / heads, 3 key-value
            heads, biases, tied embeddings where the family has them
  defaults  keys left out (or null), so that the defaults of the config class apply
and what else the family needs (see the names below).
"""

import torch
import transformers
from golden_file import write_golden
from hf import build, parameters_and_buffers

PLAIN = {
    "torch_dtype": "bfloat16",
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 160,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
}

# 6 query heads over 3 key-value heads of 10: neither 6 * 10 nor 3 * 10 is the hidden size.
ODD = {
    **PLAIN,
    "vocab_size": 101,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "intermediate_size": 75,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 10,
    "tie_word_embeddings": True,
}


def bare(**sizes):
    """A config with little more than the sizes that keep the model tiny."""
    return {"vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, **sizes}


MIXTRAL = {"num_local_experts": 4, "num_experts_per_tok": 2}

QWEN3_MOE = {
    "moe_intermediate_size": 24,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}

# num_key_value_heads says nothing about a latent attention: published files repeat the heads.
DEEPSEEK = {
    "num_key_value_heads": 8,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 4,
    "v_head_dim": 10,
    "moe_intermediate_size": 28,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
}

DEEPSEEK_ODD = {
    **DEEPSEEK,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "q_lora_rank": None,
    "kv_lora_rank": 21,
    "qk_nope_head_dim": 11,
    "qk_rope_head_dim": 6,
    "v_head_dim": 13,
    "moe_intermediate_size": 17,
    "n_routed_experts": 3,
    "n_shared_experts": 2,
    "first_k_dense_replace": 2,
    "n_group": 1,
    "topk_group": 1,
}
ODD_SIZES = {key: value for key, value in ODD.items() if key != "head_dim"}

# DeepSeek-V2: softmax scores, groups judged by their best expert, no correction bias.
DEEPSEEK_V2 = {
    **DEEPSEEK,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "routed_scaling_factor": 4.0,
    "scoring_func": "softmax",
    "topk_method": "group_limited_greedy",
}

QWEN2_MOE = {
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}

GLM4_MOE = {
    "partial_rotary_factor": 0.5,
    "moe_intermediate_size": 28,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "use_qk_norm": False,
    "attention_bias": False,
}

# From here on windows, caps and rotary scales are such that a prompt of nine tokens feels them: the
# logit goldens use these configs too.
GEMMA = {
    "hidden_act": "gelu_pytorch_tanh",
    "head_dim": 16,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
GEMMA2 = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 4,
    "tie_word_embeddings": True,
}
GEMMA2_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}

GPT_OSS = {
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 4,
    "max_position_embeddings": 256,
    "rope_theta": 150.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 4.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 64,
    },
}


def renamed(config, names):
    """The config with keys under the names that a family has for them; without those named None."""
    return {names.get(k, k): v for k, v in config.items() if names.get(k, k) is not None}


GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "hidden_act": "activation_function",
    "rms_norm_eps": "layer_norm_epsilon",
    "num_key_value_heads": None,
    "rope_theta": None,
    "head_dim": None,
}

CONFIGS = {
    "llama-plain": {"model_type": "llama", **PLAIN, "attention_bias": False, "mlp_bias": False},
    "llama-odd": {"model_type": "llama", **ODD, "attention_bias": True, "mlp_bias": True},
    "llama-defaults": {
        "model_type": "llama",
        **bare(intermediate_size=96, num_attention_heads=4),
        "num_key_value_heads": None,
        "head_dim": None,
    },
    "mistral-plain": {"model_type": "mistral", **PLAIN, "sliding_window": None},
    "mistral-odd": {"model_type": "mistral", **ODD, "sliding_window": 33},
    # 8 key-value heads, whatever the number of heads; a sliding window of 4096.
    "mistral-defaults": {
        "model_type": "mistral",
        **bare(intermediate_size=96, num_attention_heads=16),
    },
    "qwen2-plain": {
        "model_type": "qwen2",
        **PLAIN,
        "use_sliding_window": False,
        "sliding_window": 64,
        "max_window_layers": 2,
    },
    # The class reads head_dim although no published qwen2 has it.
    "qwen2-odd": {
        "model_type": "qwen2",
        **ODD,
        "use_sliding_window": True,
        "sliding_window": 33,
        "max_window_layers": 1,
    },
    # 32 key-value heads.
    "qwen2-defaults": {
        "model_type": "qwen2",
        **bare(intermediate_size=96, num_attention_heads=32),
    },
    "qwen3-plain": {"model_type": "qwen3", **PLAIN, "head_dim": 8, "attention_bias": False},
    "qwen3-odd": {
        "model_type": "qwen3",
        **ODD,
        "attention_bias": True,
        "use_sliding_window": True,
        "sliding_window": 33,
        "max_window_layers": 2,
    },
    # 32 key-value heads of 128.
    "qwen3-defaults": {
        "model_type": "qwen3",
        **bare(intermediate_size=96, num_attention_heads=32),
    },
    "mixtral-plain": {"model_type": "mixtral", **PLAIN, **MIXTRAL, "sliding_window": None},
    "mixtral-odd": {
        "model_type": "mixtral",
        **ODD,
        "num_hidden_layers": 2,
        "num_local_experts": 3,
        "num_experts_per_tok": 1,
        "sliding_window": 33,
    },
    # 8 key-value heads, 8 experts.
    "mixtral-defaults": {
        "model_type": "mixtral",
        **bare(num_hidden_layers=1, intermediate_size=96, num_attention_heads=16),
    },
    "qwen3_moe-plain": {"model_type": "qwen3_moe", **PLAIN, "head_dim": 8, **QWEN3_MOE},
    # Mixture layers: 1 and 3 by the step of 2, of which mlp_only_layers makes 3 dense again.
    "qwen3_moe-odd": {
        "model_type": "qwen3_moe",
        **ODD,
        **QWEN3_MOE,
        "num_hidden_layers": 4,
        "attention_bias": True,
        "moe_intermediate_size": 19,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    },
    # 4 key-value heads of hidden_size / heads, experts 768 wide, 8 per token, all layers mixtures.
    "qwen3_moe-defaults": {
        "model_type": "qwen3_moe",
        **bare(num_hidden_layers=1, intermediate_size=96, num_attention_heads=16, num_experts=8),
    },
    "deepseek_v3-plain": {"model_type": "deepseek_v3", **PLAIN, **DEEPSEEK},
    # Queries without a latent (q_lora_rank null), two shared experts, two dense layers.
    "deepseek_v3-odd": {"model_type": "deepseek_v3", **ODD_SIZES, **DEEPSEEK_ODD},
    "deepseek_v3-bias": {
        "model_type": "deepseek_v3",
        **PLAIN,
        **DEEPSEEK,
        "attention_bias": True,
        "first_k_dense_replace": 0,
        "num_nextn_predict_layers": 1,
    },
    # Latents of 1536 and 512, heads of 128 + 64 and 128, three dense layers, experts 2048 wide, 8
    # per token from 4 of 8 groups.
    "deepseek_v3-defaults": {
        "model_type": "deepseek_v3",
        **bare(
            num_hidden_layers=4, intermediate_size=96, num_attention_heads=2, n_routed_experts=16
        ),
    },
    "kimi_k2-plain": {
        "model_type": "kimi_k2",
        **PLAIN,
        **DEEPSEEK,
        "n_group": 1,
        "routed_scaling_factor": 2.827,
        "num_nextn_predict_layers": 0,
    },
    "kimi_k2-odd": {"model_type": "kimi_k2", **ODD_SIZES, **DEEPSEEK_ODD},
    "qwen2_moe-plain": {"model_type": "qwen2_moe", **PLAIN, **QWEN2_MOE},
    # No bias, and the layers of qwen3_moe-odd.
    "qwen2_moe-odd": {
        "model_type": "qwen2_moe",
        **ODD_SIZES,
        **QWEN2_MOE,
        "num_hidden_layers": 4,
        "qkv_bias": False,
        "moe_intermediate_size": 19,
        "shared_expert_intermediate_size": 37,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    },
    # 16 key-value heads, experts 1408 and the shared one 5632 wide, 4 per token, bias on q, k, v.
    "qwen2_moe-defaults": {
        "model_type": "qwen2_moe",
        **bare(num_hidden_layers=1, intermediate_size=96, num_attention_heads=16, num_experts=4),
    },
    "gemma-plain": {"model_type": "gemma", **PLAIN, **GEMMA},
    "gemma-odd": {
        "model_type": "gemma",
        **ODD,
        "hidden_act": "gelu_pytorch_tanh",
        "attention_bias": True,
    },
    # 16 key-value heads of 256, tied.
    "gemma-defaults": {
        "model_type": "gemma",
        **bare(num_hidden_layers=1, intermediate_size=96, num_attention_heads=16),
    },
    # Sliding windows on even layers.
    "gemma2-plain": {
        "model_type": "gemma2",
        **renamed(PLAIN, {"hidden_act": None}),
        **GEMMA2,
        **GEMMA2_CAPS,
    },
    "gemma2-odd": {
        "model_type": "gemma2",
        **renamed(ODD, {"hidden_act": "hidden_activation"}),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": True,
        "query_pre_attn_scalar": 7,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": 2.0,
    },
    # 4 key-value heads of 256, tied.
    "gemma2-defaults": {
        "model_type": "gemma2",
        **bare(num_hidden_layers=1, intermediate_size=96, num_attention_heads=4),
    },
    # The last of three layers is a full one: it alone has rope_theta and its scaling.
    "gemma3_text-plain": {
        "model_type": "gemma3_text",
        **renamed(PLAIN, {"hidden_act": None}),
        **GEMMA2,
        "num_hidden_layers": 3,
        "sliding_window_pattern": 3,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "gemma3_text-odd": {
        "model_type": "gemma3_text",
        **renamed(ODD, {"hidden_act": "hidden_activation"}),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": True,
        "query_pre_attn_scalar": 7,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_theta": 5000.0,
        "rope_local_base_freq": 300.0,
    },
    # 4 key-value heads of 256, tied.
    "gemma3_text-defaults": {
        "model_type": "gemma3_text",
        **bare(num_hidden_layers=1, intermediate_size=96, num_attention_heads=4),
    },
    "phi-plain": {
        "model_type": "phi",
        **renamed(PLAIN, {"rms_norm_eps": "layer_norm_eps"}),
        "hidden_act": "gelu_new",
        "partial_rotary_factor": 0.5,
        "qk_layernorm": False,
    },
    # With its norms on the heads of q and k, the class wants heads of hidden_size / heads.
    "phi-odd": {
        "model_type": "phi",
        **renamed(ODD_SIZES, {"rms_norm_eps": "layer_norm_eps"}),
        "hidden_act": "gelu_new",
        "partial_rotary_factor": 0.75,
        "qk_layernorm": True,
    },
    "phi-defaults": {
        "model_type": "phi",
        **bare(intermediate_size=96, num_attention_heads=4),
    },
    # The padding token of the class lies outside these vocabularies.
    "phi3-plain": {
        "model_type": "phi3",
        **PLAIN,
        "sliding_window": None,
        "partial_rotary_factor": 1.0,
        "pad_token_id": None,
    },
    "phi3-odd": {
        "model_type": "phi3",
        **ODD,
        "sliding_window": 5,
        "partial_rotary_factor": 0.6,
        "pad_token_id": None,
    },
    "phi3-defaults": {
        "model_type": "phi3",
        **bare(intermediate_size=96, num_attention_heads=4),
        "pad_token_id": None,
    },
    "deepseek_v2-plain": {"model_type": "deepseek_v2", **PLAIN, **DEEPSEEK_V2},
    # As DeepSeek-V2-Lite: queries without a latent, no groups. The class rotates pairs as complex
    # numbers and wants even strides.
    "deepseek_v2-odd": {
        "model_type": "deepseek_v2",
        **ODD_SIZES,
        **DEEPSEEK_ODD,
        "kv_lora_rank": 22,
        "qk_nope_head_dim": 14,
        "norm_topk_prob": False,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_method": "greedy",
    },
    # Latents of 1536 and 512, no dense layer, experts 1407 wide, two shared.
    "deepseek_v2-defaults": {
        "model_type": "deepseek_v2",
        **bare(
            num_hidden_layers=1,
            intermediate_size=96,
            num_attention_heads=2,
            n_routed_experts=4,
            num_experts_per_tok=2,
        ),
    },
    "glm4-plain": {
        "model_type": "glm4",
        **PLAIN,
        "head_dim": 8,
        "partial_rotary_factor": 0.5,
        "attention_bias": False,
        "pad_token_id": None,
    },
    "glm4-odd": {
        "model_type": "glm4",
        **ODD,
        "partial_rotary_factor": 0.6,
        "attention_bias": True,
        "pad_token_id": None,
    },
    # 2 key-value heads of 128, bias on q, k, v.
    "glm4-defaults": {
        "model_type": "glm4",
        **bare(intermediate_size=96, num_attention_heads=4),
        "pad_token_id": None,
    },
    "glm4_moe-plain": {"model_type": "glm4_moe", **PLAIN, "head_dim": 8, **GLM4_MOE},
    "glm4_moe-odd": {
        "model_type": "glm4_moe",
        **ODD,
        **GLM4_MOE,
        "num_hidden_layers": 4,
        "partial_rotary_factor": 0.6,
        "moe_intermediate_size": 17,
        "n_routed_experts": 6,
        "n_shared_experts": 3,
        "first_k_dense_replace": 2,
        "n_group": 2,
        "topk_group": 1,
        "use_qk_norm": True,
        "attention_bias": True,
    },
    # 8 key-value heads, experts 1408 wide, 8 per token, one shared, one dense layer.
    "glm4_moe-defaults": {
        "model_type": "glm4_moe",
        **bare(intermediate_size=96, num_attention_heads=8, n_routed_experts=8),
    },
    # Sliding windows on even layers.
    "gpt_oss-plain": {"model_type": "gpt_oss", **PLAIN, **GPT_OSS},
    "gpt_oss-odd": {
        "model_type": "gpt_oss",
        **ODD,
        **{**GPT_OSS, "head_dim": 10},
        "num_local_experts": 5,
        "num_experts_per_tok": 3,
        "sliding_window": 5,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "rope_scaling": {**GPT_OSS["rope_scaling"], "truncate": True},
    },
    # 8 key-value heads of 64, 4 experts per token.
    "gpt_oss-defaults": {
        "model_type": "gpt_oss",
        **bare(intermediate_size=96, num_attention_heads=16, num_local_experts=8),
    },
    "olmo2-plain": {"model_type": "olmo2", **PLAIN, "attention_bias": False},
    "olmo2-odd": {"model_type": "olmo2", **ODD, "attention_bias": True},
    "olmo2-defaults": {"model_type": "olmo2", **bare(intermediate_size=96, num_attention_heads=4)},
    "olmoe-plain": {
        "model_type": "olmoe",
        **PLAIN,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
        "clip_qkv": None,
    },
    "olmoe-odd": {
        "model_type": "olmoe",
        **ODD_SIZES,
        "attention_bias": True,
        "num_experts": 5,
        "num_experts_per_tok": 3,
        "norm_topk_prob": True,
        "clip_qkv": 0.9,
    },
    # 8 experts per token.
    "olmoe-defaults": {
        "model_type": "olmoe",
        **bare(num_hidden_layers=1, intermediate_size=96, num_attention_heads=4, num_experts=8),
    },
    "starcoder2-plain": {
        "model_type": "starcoder2",
        **renamed(PLAIN, {"rms_norm_eps": "norm_epsilon"}),
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": True,
        "sliding_window": None,
    },
    "starcoder2-odd": {
        "model_type": "starcoder2",
        **renamed(ODD, {"rms_norm_eps": "norm_epsilon"}),
        "hidden_act": "gelu_pytorch_tanh",
        "use_bias": False,
        "sliding_window": 5,
    },
    # 2 key-value heads, biases, tied.
    "starcoder2-defaults": {
        "model_type": "starcoder2",
        **bare(intermediate_size=96, num_attention_heads=4),
    },
    # The second layer has no rotary embedding.
    "smollm3-plain": {
        "model_type": "smollm3",
        **PLAIN,
        "no_rope_layer_interval": 2,
        "use_sliding_window": False,
        "sliding_window": None,
        "pad_token_id": None,
    },
    # The first has none, and a window.
    "smollm3-odd": {
        "model_type": "smollm3",
        **ODD,
        "no_rope_layers": [0, 1, 1],
        "use_sliding_window": True,
        "sliding_window": 5,
        "attention_bias": True,
        "mlp_bias": True,
        "pad_token_id": None,
    },
    # 4 key-value heads, tied, no rotary embedding in every fourth layer.
    "smollm3-defaults": {
        "model_type": "smollm3",
        **bare(num_hidden_layers=4, intermediate_size=96, num_attention_heads=8),
        "pad_token_id": None,
    },
    "gpt2-plain": {
        "model_type": "gpt2",
        **renamed(PLAIN, GPT2_NAMES),
        "activation_function": "gelu_new",
        "n_positions": 32,
        "tie_word_embeddings": True,
    },
    "gpt2-odd": {
        "model_type": "gpt2",
        **renamed(ODD, GPT2_NAMES),
        "activation_function": "gelu_new",
        "n_positions": 21,
        "n_head": 3,
        "scale_attn_by_inverse_layer_idx": True,
        "tie_word_embeddings": False,
    },
    # An MLP four times as wide, tied.
    "gpt2-defaults": {
        "model_type": "gpt2",
        "vocab_size": 96,
        "n_positions": 32,
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
    },
}


def main():
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    for name, config in CONFIGS.items():
        model = build(config)
        parameters, buffers = parameters_and_buffers(model)
        classes = {path: type(m).__name__ for path, m in model.named_modules() if path}
        write_golden(name, config, transformers.__version__, parameters, buffers, classes)


if __name__ == "__main__":
    main()
