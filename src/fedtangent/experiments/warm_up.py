"""Warm-up: what PyTorch imports and sets up at the first derivatives of a process, before a clock starts."""

from functools import cache

import torch
from torch import Tensor, nn

from fedtangent.multiply_adds import Counting
from fedtangent.tangents.capture.derivatives import FASTEST, push
from fedtangent.tangents.capture.functional import call


@cache
def warm_up(device: torch.device | str) -> None:
    """Takes derivatives of a small network as methods do: once a process and device, in some seconds.

    The first reverse one imports PyTorch's compiler, the first forward one its table of decompositions.
    """
    model = nn.Linear(2, 2, device="meta").to_empty(device=device)
    w, x = {name: torch.ones_like(p) for name, p in model.named_parameters()}, torch.ones(3, 2, device=device)

    def loss(w: dict[str, Tensor], x: Tensor) -> Tensor:
        return call(model, w, x).log_softmax(-1).sum()

    with Counting():
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(w, x[None])
        push(model, w, x, w, FASTEST)
