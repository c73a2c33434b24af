"""Goldens of multi-token prediction: tests/data/mtp/<type>-<variant>.json.

transformers leaves the MTP layers of a checkpoint out. Here they are put together from its own
classes: the decoder layer that the checkpoint has at that index, and around it, in plain PyTorch,
what section 2.2 of the DeepSeek-V3 technical report describes. As vLLM and SGLang run the published
weights: the embedding is the first half of eh_proj's input, the model's hidden state is the one
behind its final norm, and a depth takes the one behind the shared_head.norm of the depth before
(SGLang). Depths beyond the layers apply them again.

Without a cache, in float32, eager attention, one thread.
"""

import json

import numpy as np
import torch
import transformers
from golden_file import REPOSITORY, block, entries
from hf import build, checkpoint_parameters_and_buffers, load
from logits import config_of, number_rows
from weights import role, values, weights

MTP = REPOSITORY / "tests" / "data" / "mtp"
REQUESTS, PROMPT, STEPS = 2, 9, 2

# Layers that predict, and tokens that they predict.
VARIANTS = {"deepseek_v3-plain": (1, 3), "deepseek_v3-odd": (2, 2), "glm4_moe-plain": (1, 1)}


def norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def forward(model, config, tokens, layers, depths):
    """Logits [1 + depths, requests, length, vocabulary] of tokens [requests, length + depths]."""
    length = tokens.shape[1] - depths
    count = config["num_hidden_layers"]

    def parameter(layer, name, shape):
        path = f"model.layers.{layer}.{name}.weight"
        return torch.from_numpy(values(path, shape, *role(path, shape, config["model_type"])))

    decoder, head = model.model, model.lm_head
    width, eps = model.config.hidden_size, model.config.rms_norm_eps
    positions = torch.arange(length)[None]
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    hidden = decoder.embed_tokens(tokens[:, :length])
    rotary = decoder.rotary_emb(hidden, positions)

    def block_of(layer, x):
        return decoder.layers[layer](
            x, attention_mask=mask, position_ids=positions, position_embeddings=rotary
        )

    for layer in range(count):
        hidden = block_of(layer, hidden)
    hidden = decoder.norm(hidden)
    logits = [head(hidden)]
    for depth in range(1, depths + 1):
        layer = count + (depth - 1) % layers
        following = decoder.embed_tokens(tokens[:, depth : depth + length])
        both = (
            norm(following, parameter(layer, "enorm", (width,)), eps),
            norm(hidden, parameter(layer, "hnorm", (width,)), eps),
        )
        projection = parameter(layer, "eh_proj", (width, 2 * width))
        hidden = block_of(layer, torch.cat(both, -1) @ projection.T)
        hidden = norm(hidden, parameter(layer, "shared_head.norm", (width,)), eps)
        logits.append(head(hidden))
    return torch.stack(logits)


def compute(name):
    layers, depths = VARIANTS[name]
    config = config_of(name)
    deep = {**config, "num_hidden_layers": config["num_hidden_layers"] + layers}
    parameters, buffers = checkpoint_parameters_and_buffers(build(deep))
    model = load(deep, weights(parameters + buffers, config["model_type"]), torch.float32)
    length = PROMPT + STEPS * (1 + depths)
    uniform = values("mtp tokens", (REQUESTS, length + depths), 0.0, 1.0)
    tokens = torch.from_numpy(((uniform + 1) / 2 * config["vocab_size"]).astype(np.int64))
    with torch.no_grad():
        logits = forward(model, config, tokens, layers, depths)
    return {
        "config": {**config, "num_nextn_predict_layers": layers},
        "transformers": transformers.__version__,
        "mtp_tokens": depths,
        "prompt_length": PROMPT,
        "tokens": tokens,
        "logits": logits[:, :, PROMPT - 1 :],
    }


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    MTP.mkdir(parents=True, exist_ok=True)
    for name in VARIANTS:
        members = {}
        for key, value in compute(name).items():
            if isinstance(value, torch.Tensor):
                members[key] = number_rows(value)
            elif key == "config":
                members[key] = block("{", entries(value), "}")
            else:
                members[key] = json.dumps(value)
        lines = ",\n".join(f'  "{key}": {value}' for key, value in members.items())
        (MTP / f"{name}.json").write_text("{\n" + lines + "\n}\n")
        print(name, flush=True)


if __name__ == "__main__":
    main()
