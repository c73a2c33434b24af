"""Inverse frequencies and attention factors of rotary embeddings, from the real classes.

Writes tests/data/rope.json: a list of cases, each with the config.json that a model would have, the
layer type where the class asks for one, and what the class computed for a sequence of that length.
"""

import importlib
import json

import torch
import transformers
from golden_file import REPOSITORY
from transformers import AutoConfig

SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 6,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
}
LLAMA = {"model_type": "llama", **SIZES}
PHI3 = {"model_type": "phi3", **SIZES, "original_max_position_embeddings": 32}
LONGROPE = {
    "type": "longrope",
    "short_factor": [1.0, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0],
    "long_factor": [1.0, 1.5, 2.25, 4.0, 7.5, 16.0, 32.5, 64.0],
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

# name, config, length of the sequence, layer type
CASES = [
    ("default", LLAMA, 8, None),
    ("default with another base", {**LLAMA, "rope_theta": 500000.0, "head_dim": 10}, 8, None),
    ("linear", {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.5}}, 8, None),
    ("dynamic, short", {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 64, None),
    ("dynamic, beyond", {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, 65, None),
    ("dynamic, far", {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 3.5}}, 301, None),
    (
        "llama3",
        {
            **LLAMA,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        100,
        None,
    ),
    ("yarn", {**LLAMA, "rope_scaling": YARN}, 8, None),
    ("yarn, factor given", {**LLAMA, "rope_scaling": {**YARN, "attention_factor": 0.8}}, 8, None),
    (
        "yarn, mscale",
        {**LLAMA, "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 8}},
        8,
        None,
    ),
    (
        "yarn of gpt_oss",
        {
            "model_type": "gpt_oss",
            **SIZES,
            "head_dim": 64,
            "rope_theta": 150000,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
        8,
        None,
    ),
    ("longrope, short", {**PHI3, "rope_scaling": LONGROPE}, 32, None),
    ("longrope, beyond", {**PHI3, "rope_scaling": LONGROPE}, 33, None),
    (
        "longrope, factor given",
        {**PHI3, "rope_scaling": {**LONGROPE, "factor": 3.0}},
        8,
        None,
    ),
    (
        "rope_parameters",
        {**LLAMA, "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 777.0}},
        8,
        None,
    ),
    (
        "rope_parameters per layer type",
        {
            "model_type": "gemma3_text",
            **SIZES,
            "head_dim": 12,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
        8,
        "full_attention",
    ),
]


def rotary_class(model_type):
    package = {"gemma3_text": "gemma3"}.get(model_type, model_type)
    module = importlib.import_module(f"transformers.models.{package}.modeling_{package}")
    return next(
        value
        for name, value in vars(module).items()
        if name.endswith("RotaryEmbedding") and value.__module__ == module.__name__
    )


def main():
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    cases = []
    for name, config, length, layer_type in CASES:
        values = json.loads(json.dumps(config))  # transformers changes maps in place
        model_type = values.pop("model_type")
        hf_config = AutoConfig.for_model(model_type, **values)
        rotary = rotary_class(model_type)(hf_config)
        arguments = {} if layer_type is None else {"layer_type": layer_type}
        rotary(torch.zeros(1), torch.arange(length)[None], **arguments)
        prefix = "" if layer_type is None else layer_type + "_"
        frequencies = getattr(rotary, prefix + "inv_freq")
        cases.append(
            {
                "name": name,
                "config": config,
                "layer_type": layer_type or "",
                "sequence_length": length,
                "inverse_frequencies": frequencies.tolist(),
                "attention_factor": float(getattr(rotary, prefix + "attention_scaling")),
            }
        )
    text = ",\n".join("  " + json.dumps(case) for case in cases)
    (REPOSITORY / "tests" / "data" / "rope.json").write_text(f"[\n{text}\n]\n")


if __name__ == "__main__":
    main()
