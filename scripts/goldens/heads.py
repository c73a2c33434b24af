"""Goldens of what stands on a decoder: the results of the real classes that predict no tokens.

    heads.py    writes tests/data/heads/<class>.json

Embeddings, classifiers and a reward model, from weights made by weights.py: two requests of nine
tokens each, in float32 with eager attention. The results are hidden states of every token, scores
of every token, or scores of each request. The reward model is no class of transformers; its head is
built here as the published Qwen2.5 reward models lay it out.
"""

import json
import math

import numpy as np
import torch
import transformers
from golden_file import REPOSITORY, block, entries
from hf import hf_config, parameters_and_buffers
from logits import number_rows
from shapes import CONFIGS
from weights import values, weights

HEADS = REPOSITORY / "tests" / "data" / "heads"
REQUESTS, LENGTH = 2, 9


class Qwen2ForRewardModel(transformers.Qwen2PreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.Qwen2Model(config)
        hidden = config.hidden_size
        self.score = torch.nn.Sequential(
            torch.nn.Linear(hidden, hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 1)
        )
        self.post_init()

    def forward(self, input_ids):
        return self.score(self.model(input_ids=input_ids).last_hidden_state[:, -1])


# Class -> what its config has beside that of a shape golden.
CASES = {
    "Qwen3Model": ("qwen3-plain", {}),
    "Qwen3Model-bidirectional": ("qwen3-plain", {"is_causal": False}),
    "Gemma3TextModel": ("gemma3_text-plain", {"sliding_window": 5}),
    "LlamaForSequenceClassification": ("llama-plain", {"num_labels": 3}),
    "MixtralForSequenceClassification": ("mixtral-plain", {}),
    "GPT2ForSequenceClassification": ("gpt2-plain", {}),
    "LlamaForTokenClassification": ("llama-plain", {"id2label": {str(i): f"L{i}" for i in range(5)}}),
    "GPT2ForTokenClassification": ("gpt2-plain", {}),
    "Qwen2ForRewardModel": ("qwen2-plain", {}),
}


def class_of(name):
    name = name.split("-")[0]
    return Qwen2ForRewardModel if name == "Qwen2ForRewardModel" else getattr(transformers, name)


def results(model, tokens):
    with torch.no_grad():
        output = model(input_ids=tokens)
    if isinstance(output, torch.Tensor):
        return output
    return output.logits if "logits" in output else output.last_hidden_state


def compute(name):
    base, more = CASES[name]
    config = {**CONFIGS[base], "architectures": [name.split("-")[0]], "pad_token_id": 0, **more}
    config["vocab_size"] = 96
    model_class = class_of(name)
    hf = hf_config(config)
    with torch.device("meta"):
        shell = model_class._from_config(hf, attn_implementation="eager")
    parameters, buffers = parameters_and_buffers(shell)
    if hasattr(transformers, "core_model_loading"):
        from transformers.core_model_loading import revert_weight_conversion

        stored = revert_weight_conversion(shell, dict(shell.named_parameters()))
        parameters = [(key, tuple(value.shape)) for key, value in stored.items()]
    tensors = weights(parameters + buffers, config["model_type"])
    model, info = model_class.from_pretrained(
        None,
        config=hf,
        state_dict={key: torch.from_numpy(value) for key, value in tensors.items()},
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    if any(info.values()):
        raise ValueError(f"{name}: {info}")
    uniform = values("tokens", (REQUESTS, LENGTH), 0.0, 1.0)
    tokens = torch.from_numpy(((uniform + 1) / 2 * (config["vocab_size"] - 1)).astype(np.int64)) + 1
    return {
        "config": config,
        "transformers": transformers.__version__,
        "total": sum(math.prod(shape) for _, shape in parameters),
        "parameters": parameters,
        "prompt": tokens,
        "results": results(model, tokens).float(),
    }


def main():
    torch.set_num_threads(1)
    HEADS.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        members = {}
        for key, value in compute(name).items():
            if isinstance(value, torch.Tensor):
                members[key] = number_rows(value)
            elif key == "parameters":
                members[key] = block("[", [json.dumps(entry) for entry in value], "]")
            elif key == "config":
                members[key] = block("{", entries(value), "}")
            else:
                members[key] = json.dumps(value)
        lines = (f'  "{key}": {value}' for key, value in members.items())
        (HEADS / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(name)


if __name__ == "__main__":
    main()
