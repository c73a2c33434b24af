"""A quantized model as float arithmetic: values on the grid of 8-bit integers.

Every linear is converted but the head and the routers. Weights have one scale per output row,
activations one per token, both max |x| / 127 in float32; values are rounded half to even.
"""

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

LEFT_ALONE = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight")


def on_grid(rows):
    """Each row of the last dimension on its own grid of 255 values."""
    scale = rows.abs().amax(-1, keepdim=True) / 127
    scale = torch.where(scale == 0, 1, scale)
    return (rows / scale).round().clamp(-127, 127) * scale


def quantized_weights(tensors):
    """The checkpoint with the weights of all linears that are converted put on their grids."""
    return {
        name: values
        if values.ndim < 2 or name.endswith(LEFT_ALONE)
        else np.asarray(on_grid(torch.from_numpy(values)))
        for name, values in tensors.items()
    }


class QuantizedActivations(TorchFunctionMode):
    """While it is active the inputs of a model's linears, fused experts too, are put on grids."""

    def __init__(self, model):
        super().__init__()
        self.left_alone = {
            weight.data_ptr()
            for name, weight in model.named_parameters()
            if name.endswith(LEFT_ALONE)
        }

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear and args[1].data_ptr() not in self.left_alone:
            args = (on_grid(args[0]), *args[1:])
        return func(*args, **(kwargs or {}))


class RoundingNoise(TorchFunctionMode):
    """While it is active the outputs of linears vary as they do with another order of summation."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.linear:
            noise = torch.randn(result.shape, generator=self.generator)
            result = result + 5e-7 * noise * result.abs().amax(-1, keepdim=True)
        return result
