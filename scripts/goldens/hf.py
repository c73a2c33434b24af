"""The real classes of transformers, instantiated without memory for their weights."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

# Model types that transformers does not know: their published files carry the classes of another.
SAME_CLASSES = {"kimi_k2": "deepseek_v3"}


def build(config):
    """The causal language model of a config.json (a dict) on the meta device, with eager attention.

    quantization_config is left out: it changes how weights are stored, not which there are.
    """
    values = {key: value for key, value in config.items() if key != "quantization_config"}
    model_type = values.pop("model_type")
    hf_config = AutoConfig.for_model(SAME_CLASSES.get(model_type, model_type), **values)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager")


def parameters_and_buffers(model):
    """Two lists of (name, shape): parameters, a tied one once; what else the state dict has."""
    parameters = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    every_name = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = [(n, tuple(b.shape)) for n, b in model.state_dict().items() if n not in every_name]
    return parameters, buffers
