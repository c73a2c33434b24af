"""The real classes of transformers, instantiated without memory for their weights."""

import copy

import torch
from transformers import AutoConfig, AutoModelForCausalLM

try:
    from transformers.core_model_loading import revert_weight_conversion
except ImportError:  # before 5: modules are named and shaped as checkpoints are
    revert_weight_conversion = None

# Model types that transformers does not know: their published files carry the classes of another.
SAME_CLASSES = {"kimi_k2": "deepseek_v3"}




def hf_config(config):
    """The config object of transformers for a config.json (a dict).

    quantization_config is left out: it changes how weights are stored, not which there are.
    """
    values = copy.deepcopy({k: v for k, v in config.items() if k != "quantization_config"})
    model_type = values.pop("model_type")
    return AutoConfig.for_model(SAME_CLASSES.get(model_type, model_type), **values)


def build(config):
    """The causal language model of a config.json (a dict) on the meta device, eager attention."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(hf_config(config), attn_implementation="eager")


def parameters_and_buffers(model):
    """Two lists of (name, shape): parameters, a tied one once; what else the state dict has."""
    parameters = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    every_name = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = [(n, tuple(b.shape)) for n, b in model.state_dict().items() if n not in every_name]
    return parameters, buffers


def checkpoint_parameters_and_buffers(model):
    """As parameters_and_buffers, but under the checkpoint's names, with experts apart.

    From transformers 5 on the module's own names and shapes are others.
    """
    parameters, buffers = parameters_and_buffers(model)
    if revert_weight_conversion is None:
        return parameters, buffers
    own = dict(model.named_parameters())
    stored = revert_weight_conversion(model, own)
    return [(name, tuple(p.shape)) for name, p in stored.items()], buffers


def load(config, tensors, dtype):
    """The model with the given checkpoint tensors (name -> float32 array), ready for inference.

    The library itself converts names, stacks experts and rounds to the dtype.
    """
    model_class = type(build(config))
    extra = {} if revert_weight_conversion is None else {"experts_implementation": "eager"}
    model, info = model_class.from_pretrained(
        None,
        config=hf_config(config),
        state_dict={name: torch.from_numpy(values) for name, values in tensors.items()},
        dtype=dtype,
        attn_implementation="eager",
        output_loading_info=True,
        **extra,
    )
    if any(info.values()):
        raise ValueError(f"{config['model_type']}: {info}")
    return model
