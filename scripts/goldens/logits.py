"""Logit goldens: what the real classes of transformers compute from weights made by weights.py.

    logits.py [NAME...]    writes tests/data/logits/<type>-<variant>.json
    logits.py --check      compares those files with the transformers that runs it, another release

Two requests of nine tokens each, then two decode steps through the KV cache, in float32 with eager
attention on one thread. The configs are those of the shape goldens where they are given there, with
windows that nine tokens exceed.
"""

import argparse
import contextlib
import json
import math
import sys

import numpy as np
import torch
import transformers
from fake_quantization import QuantizedActivations, RoundingNoise, quantized_weights
from golden_file import REPOSITORY, block, entries
from hf import build, checkpoint_parameters_and_buffers, load
from router_gap import RouterGap
from shapes import CONFIGS, PLAIN
from weights import values, weights

LOGITS = REPOSITORY / "tests" / "data" / "logits"
REQUESTS, PROMPT, STEPS = 2, 9, 2
CANDIDATES = 1024  # prompts to choose from where a near-tie of experts could go either way

# Rotary frequencies of 1 to 0.03: all of them turn within a few tokens.
ROPE = {"model_type": "llama", **PLAIN, "rope_theta": 100.0}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 64,
}

# What the shape goldens do not have, and what they have otherwise.
VARIANTS = {
    "llama-plain": {},
    "llama-odd": {},
    "llama-rope_linear": {**ROPE, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    # The prompt is longer than max_position_embeddings.
    "llama-rope_dynamic": {
        **ROPE,
        "max_position_embeddings": 6,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
    },
    # One frequency stays, one is blended, two are divided by the factor.
    "llama-rope_llama3": {
        **ROPE,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama-rope_yarn": {**ROPE, "rope_scaling": YARN},
    "mistral-plain": {},
    "mistral-odd": {"sliding_window": 5},
    "mixtral-plain": {},
    "mixtral-odd": {"sliding_window": 5},
    "qwen2-plain": {},
    "qwen2-odd": {"sliding_window": 5},
    "qwen3-plain": {},
    "qwen3-odd": {"sliding_window": 5},
    "qwen3_moe-plain": {},
    "qwen3_moe-odd": {},
    "deepseek_v3-plain": {},
    "deepseek_v3-odd": {},
    "kimi_k2-plain": {
        "rope_theta": 100.0,
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "kimi_k2-odd": {
        "rope_interleave": False,
        "rope_theta": 100.0,
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.6},
    },
    **{
        f"{model_type}-{variant}": {}
        for model_type in (
            "qwen2_moe",
            "gemma",
            "gemma2",
            "gemma3_text",
            "phi",
            "phi3",
            "deepseek_v2",
            "glm4",
            "glm4_moe",
            "gpt_oss",
            "olmo2",
            "olmoe",
            "starcoder2",
            "smollm3",
            "gpt2",
        )
        for variant in ("plain", "odd")
    },
    # The prompt is longer than original_max_position_embeddings: the long factors apply.
    "phi3-longrope": {
        **CONFIGS["phi3-plain"],
        "rope_theta": 100.0,
        "max_position_embeddings": 32,
        "original_max_position_embeddings": 8,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.3, 1.6],
            "long_factor": [1.2, 1.9, 3.1, 4.0],
        },
    },
    # It is not: the short ones do.
    "phi3-shortrope": {
        **CONFIGS["phi3-plain"],
        "rope_theta": 100.0,
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 16,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.3, 1.6],
            "long_factor": [1.2, 1.9, 3.1, 4.0],
        },
    },
    # layer_types gives a layer its window, use_sliding_window or not.
    "smollm3-layer_types": {
        **CONFIGS["smollm3-plain"],
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 5,
    },
    # The first files say gelu and mean its tanh form.
    "gemma-gelu": {**CONFIGS["gemma-plain"], "hidden_act": "gelu"},
    # mscale_all_dim counts for every kind of scaling.
    "deepseek_v3-rope_linear": {
        **CONFIGS["deepseek_v3-plain"],
        "rope_theta": 100.0,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0, "mscale_all_dim": 1.0},
    },
    # rope_scaling beside rope_parameters: the former counts.
    "llama-rope_both": {
        **{key: value for key, value in ROPE.items() if key != "rope_theta"},
        "rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "gpt_oss-limit": {**CONFIGS["gpt_oss-plain"], "swiglu_limit": 0.5},
    "deepseek_v2-yarn": {
        **CONFIGS["deepseek_v2-plain"],
        "rope_theta": 100.0,
        "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
    },
}

# Those that have references for 8-bit integers too.
QUANTIZED = ("llama-plain", "qwen3_moe-plain", "deepseek_v3-plain")

# Goldens that releases before the given one compute otherwise: README.md says why.
KNOWN_OTHERWISE = {
    name: "5"
    for name in (
        "deepseek_v2-yarn",
        "deepseek_v3-rope_linear",
        "gemma-gelu",
        "gpt_oss-limit",
        "llama-rope_both",
    )
}


def config_of(name):
    config = {**CONFIGS.get(name, {}), **VARIANTS[name]}
    # A vocabulary of 96 keeps the files small.
    return {**config, "vocab_size": min(config["vocab_size"], 101 if "odd" in name else 96)}


def run(model, tokens):
    """Logits [requests, PROMPT, vocabulary] of the prompt, [STEPS, requests, vocabulary] after."""
    with torch.no_grad():
        output = model(input_ids=tokens[:, :PROMPT], use_cache=True)
        prompt, decode = output.logits, []
        for step in range(PROMPT, tokens.shape[1]):
            output = model(
                input_ids=tokens[:, step : step + 1],
                past_key_values=output.past_key_values,
                use_cache=True,
            )
            decode.append(output.logits[:, 0])
    return prompt.float(), torch.stack(decode).float()


def error(a, b):
    """max |a - b| / max |b| over prompt and decode together."""
    worst = max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))
    return worst / max(y.abs().max().item() for y in b)


def forward(model, tokens, *modes):
    """Logits [requests, length, vocabulary] without a cache, computed under the given modes."""
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for mode in modes:
            stack.enter_context(mode)
        return model(input_ids=tokens).logits.float()


def stable(model, tokens, modes):
    """For which requests no activation is so near the middle of two integers that it could be
    rounded to the other one, [requests]."""
    exact = forward(model, tokens, *modes)
    worst = torch.zeros(len(tokens))
    for seed in range(6):
        noisy = forward(model, tokens, *modes, RoundingNoise(seed))
        worst = torch.maximum(worst, (noisy - exact).abs().amax((1, 2)))
    return worst < 1e-4


def choose_tokens(vocabulary, models):
    """[REQUESTS, PROMPT + STEPS] token ids on which no router is near a tie, and the smallest gap.

    models: (model, modes to run it under) pairs. Of CANDIDATES requests those remain for which all
    models choose the same experts, the gap between the last expert taken and the first one left is
    wide, and quantized activations are stable; of them the pair that leaves no expert idle, or as
    few as can be, is taken, and the first two where there are no routers.
    """
    uniform = values("tokens", (CANDIDATES, PROMPT + STEPS), 0.0, 1.0)
    tokens = torch.from_numpy(((uniform + 1) / 2 * vocabulary).astype(np.int64))
    watches = [RouterGap() for _ in models]
    for watch, (model, *modes) in zip(watches, models, strict=True):
        forward(model, tokens, *modes, watch)
    gaps = torch.stack([watch.per_request(CANDIDATES) for watch in watches]).amin(0)
    for watch in watches[1:]:
        gaps[~watches[0].same_choice(watch, CANDIDATES)] = 0.0
    for model, *modes in models:
        if modes:
            gaps[~stable(model, tokens, modes)] = 0.0
    wide = next(limit for limit in (0.02, 0.01, 0.005, 0.002, 0.001) if (gaps > limit).sum() >= 8)
    rows = (gaps > wide).nonzero().flatten()
    uses = watches[0].uses(CANDIDATES)[rows]
    together = uses[:, None] + uses[None]
    # The rarest choices count most.
    merit = together.clamp(max=9).float().neg().exp().sum(-1).fill_diagonal_(math.inf)
    first, second = divmod(int(merit.numpy().argmin()), len(rows))
    pair = rows[[first, second]]
    return tokens[pair], gaps[pair].min().item()


def compute(name):
    """The members of a golden, as Python values and tensors."""
    config = config_of(name)
    parameters, buffers = checkpoint_parameters_and_buffers(build(config))
    tensors = weights(parameters + buffers, config["model_type"])
    models = [(load(config, tensors, dtype),) for dtype in (torch.float32, torch.bfloat16)]
    if name in QUANTIZED:
        rounded = load(config, quantized_weights(tensors), torch.float32)
        models += [(rounded,), (rounded, QuantizedActivations(rounded))]
    tokens, gap = choose_tokens(config["vocab_size"], models)
    # Models anew: rope_dynamic and longrope remember the longest sequence.
    logits, bf16 = (run(load(config, tensors, d), tokens) for d in (torch.float32, torch.bfloat16))
    # The cache changes nothing, but with rope_dynamic, whose cached keys keep older frequencies.
    whole = forward(load(config, tensors, torch.float32), tokens)
    cached = torch.cat([logits[0], logits[1].transpose(0, 1)], dim=1)
    if error([cached], [whole]) > 1e-5 and not name.endswith("rope_dynamic"):
        raise ValueError(f"{name}: with a cache the logits are others: {error([cached], [whole])}")
    # Every token has scales of its own, so no cache is needed to decode.
    quantized = [forward(model, tokens, *modes) for model, *modes in models[2:]]
    return {
        "config": config,
        "transformers": transformers.__version__,
        "total": sum(math.prod(shape) for _, shape in parameters),
        "parameters": parameters,
        "buffers": buffers,
        "router_gap": None if math.isinf(gap) else gap,
        "prompt": tokens[:, :PROMPT],
        "decode": tokens[:, PROMPT:],
        "logits": logits[0],
        "decode_logits": logits[1],
        "bf16_error": error(bf16, logits),
        **dict(zip(("logits_w8a16", "logits_w8a8"), quantized)),
    }


def number_rows(tensor):
    """JSON of a tensor, one row of the last dimension per line."""
    if tensor.dim() > 1:
        return "[\n" + ",\n".join(number_rows(part) for part in tensor) + "]"
    # numpy writes as few digits as tell a float32 from its neighbours.
    return "[" + ",".join(str(value) for value in tensor.numpy()) + "]"


def write(name, golden):
    members = {}
    for key, value in golden.items():
        if isinstance(value, torch.Tensor):
            members[key] = number_rows(value)
        elif key in ("parameters", "buffers"):
            members[key] = block("[", [json.dumps(entry) for entry in value], "]")
        elif key == "config":
            members[key] = block("{", entries(value), "}")
        elif value is not None:
            members[key] = f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
    text = "{\n" + ",\n".join(f'  "{key}": {value}' for key, value in members.items()) + "\n}\n"
    LOGITS.mkdir(parents=True, exist_ok=True)
    (LOGITS / f"{name}.json").write_text(text)


def check():
    """Whether this release of transformers computes what the files hold; True if all are equal.

    Other releases' logits that are known not to be those of the published model count as equal.
    """
    fine = True
    for path in sorted(LOGITS.glob("*.json")):
        golden = json.loads(path.read_text())
        config = golden["config"]
        parameters, buffers = checkpoint_parameters_and_buffers(build(config))
        stored = [{(n, tuple(s)) for n, s in golden[key]} for key in ("parameters", "buffers")]
        same_names = stored == [set(parameters), set(buffers)]
        tensors = weights(parameters + buffers, config["model_type"])
        prompts = torch.tensor(golden["prompt"]), torch.tensor(golden["decode"])
        found = run(load(config, tensors, torch.float32), torch.cat(prompts, dim=1))
        difference = error(found, [torch.tensor(golden[k]) for k in ("logits", "decode_logits")])
        known = transformers.__version__ < KNOWN_OTHERWISE.get(path.stem, "")
        fine = fine and same_names and (known or difference <= 1e-5)
        remark = ("" if same_names else ", other names") + (", known" if known else "")
        print(f"{path.stem}: {difference:.1e}{remark}", flush=True)
    return fine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="goldens to write; all of them without names")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    if arguments.check:
        sys.exit(0 if check() else 1)
    for name in arguments.names or VARIANTS:
        golden = compute(name)
        write(name, golden)
        gap = f", router gap {golden['router_gap']:.2g}" if golden["router_gap"] else ""
        print(f"{name}: bf16 error {golden['bf16_error']:.2g}{gap}", flush=True)


if __name__ == "__main__":
    main()
