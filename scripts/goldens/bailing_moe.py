"""Shape goldens of bailing_moe (Ling-lite, Ling-plus), which transformers does not know.

Written from the published layout, and found equal to what the class itself builds: names, shapes
and classes are those of BailingMoeForCausalLM (eager attention) in the modelling code that is
published with the weights and at github.com/inclusionAI/Ling, models/modeling_bailing_moe.py.
`--published` prints the total for Ling-plus, to compare with the published 290B.
"""

import argparse
import math

from golden_file import write_golden

SOURCE = "none: layout of github.com/inclusionAI/Ling, models/modeling_bailing_moe.py"

LING_PLUS = {
    "model_type": "bailing_moe",
    "torch_dtype": "bfloat16",
    "vocab_size": 126464,
    "hidden_size": 5376,
    "num_hidden_layers": 88,
    "intermediate_size": 12288,
    "num_attention_heads": 56,
    "num_key_value_heads": 8,
    "use_qkv_bias": False,
    "use_bias": False,
    "num_experts": 64,
    "num_shared_experts": 1,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 3072,
    "first_k_dense_replace": 0,
    "norm_topk_prob": True,
    "norm_head": True,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "max_position_embeddings": 16384,
    "rope_theta": 600000,
}

PLAIN = {
    **LING_PLUS,
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 160,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "max_position_embeddings": 256,
}

CONFIGS = {
    "bailing_moe-plain": PLAIN,
    "bailing_moe-odd": {
        **PLAIN,
        "vocab_size": 101,
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "intermediate_size": 75,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 10,
        "use_qkv_bias": True,
        "use_bias": True,
        "num_experts": 3,
        "num_shared_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 17,
        "first_k_dense_replace": 1,
        "norm_head": False,
        "tie_word_embeddings": True,
    },
}


class Layout:
    """Collects parameters and module classes in the order in which PyTorch would list them."""

    def __init__(self):
        self.parameters = []
        self.classes = {}

    def module(self, path, class_name):
        self.classes[path] = class_name

    def weight(self, path, class_name, *shape):
        self.module(path, class_name)
        self.parameters.append((path + ".weight", shape))

    def linear(self, path, rows, columns, bias=False):
        self.weight(path, "Linear", rows, columns)
        if bias:
            self.parameters.append((path + ".bias", (rows,)))

    def mlp(self, path, hidden, width):
        self.module(path, "BailingMoeMLP")
        self.linear(path + ".gate_proj", width, hidden)
        self.linear(path + ".up_proj", width, hidden)
        self.linear(path + ".down_proj", hidden, width)
        self.module(path + ".act_fn", "SiLUActivation")


def layout(config):
    hidden = config["hidden_size"]
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or hidden // heads
    result = Layout()
    result.module("model", "BailingMoeModel")
    result.weight("model.word_embeddings", "Embedding", config["vocab_size"], hidden)
    result.module("model.layers", "ModuleList")
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        result.module(layer, "BailingMoeDecoderLayer")
        attention = layer + ".attention"
        result.module(attention, "BailingMoeAttention")
        rows = (heads + 2 * config["num_key_value_heads"]) * head_dim
        result.linear(attention + ".query_key_value", rows, hidden, config["use_qkv_bias"])
        result.linear(attention + ".dense", hidden, heads * head_dim, config["use_bias"])
        result.module(attention + ".rotary_emb", "BailingMoeRotaryEmbedding")
        mlp = layer + ".mlp"
        if index < config["first_k_dense_replace"]:
            result.mlp(mlp, hidden, config["intermediate_size"])
        else:
            result.module(mlp, "BailingMoeSparseMoeBlock")
            width = config["moe_intermediate_size"]
            result.module(mlp + ".experts", "ModuleList")
            for expert in range(config["num_experts"]):
                result.mlp(f"{mlp}.experts.{expert}", hidden, width)
            result.weight(mlp + ".gate", "BailingMoeGate", config["num_experts"], hidden)
            result.mlp(mlp + ".shared_experts", hidden, width * config["num_shared_experts"])
        result.weight(layer + ".input_layernorm", "BailingMoeRMSNorm", hidden)
        result.weight(layer + ".post_attention_layernorm", "BailingMoeRMSNorm", hidden)
    result.weight("model.norm", "BailingMoeRMSNorm", hidden)
    if config["tie_word_embeddings"]:
        result.module("lm_head", "Linear")
    else:
        result.linear("lm_head", config["vocab_size"], hidden)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", action="store_true", help="print the total of Ling-plus")
    if parser.parse_args().published:
        print(sum(math.prod(shape) for _, shape in layout(LING_PLUS).parameters))
        return
    for name, config in CONFIGS.items():
        result = layout(config)
        write_golden(name, config, SOURCE, result.parameters, [], result.classes)


if __name__ == "__main__":
    main()
