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
DEEPSEEK_ODD_SIZES = {key: value for key, value in ODD.items() if key != "head_dim"}

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
    "deepseek_v3-odd": {"model_type": "deepseek_v3", **DEEPSEEK_ODD_SIZES, **DEEPSEEK_ODD},
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
    "kimi_k2-odd": {"model_type": "kimi_k2", **DEEPSEEK_ODD_SIZES, **DEEPSEEK_ODD},
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
