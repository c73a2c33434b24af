"""How near a mixture of experts is to choosing others."""

import torch
from torch.overrides import TorchFunctionMode


class RouterGap(TorchFunctionMode):
    """Watches top-k choices while it is active: of experts, and of groups of experts.

    Routers rank rows of [tokens, experts] or [tokens, groups]; a top-k of a tensor with more
    dimensions only sums the best of a group and chooses nothing.
    """

    def __init__(self):
        super().__init__()
        self.gaps = []
        self.choices = []
        self.options = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.topk, torch.Tensor.topk) and args[0].dim() == 2:
            ranked = args[0].float().sort(dim=-1, descending=True).values
            k = result.indices.shape[-1]
            if k < ranked.shape[-1]:
                self.gaps.append(ranked[:, k - 1] - ranked[:, k])
                self.choices.append(result.indices.sort(dim=-1).values)
                self.options.append(ranked.shape[-1])
        return result

    def per_request(self, requests):
        """The smallest gap over layers and tokens, [requests]; infinite where nothing chose."""
        if not self.gaps:
            return torch.full((requests,), torch.inf)
        return torch.stack([gap.view(requests, -1).amin(1) for gap in self.gaps]).amin(0)

    def same_choice(self, other, requests):
        """Whether another run of the same requests chose the same, [requests]."""
        same = torch.ones(requests, dtype=torch.bool)
        for mine, its in zip(self.choices, other.choices, strict=True):
            same &= (mine == its).view(requests, -1).all(1)
        return same

    def uses(self, requests):
        """How often a request chose each expert or group of each layer, [requests, all of them]."""
        counts = [torch.zeros(requests, 0, dtype=torch.int64)]
        for choice, options in zip(self.choices, self.options):
            rows = choice.view(requests, -1)
            counts.append(torch.nn.functional.one_hot(rows, options).sum(1))
        return torch.cat(counts, dim=1)
