"""Torch's own SGD in shuffled batches: what every method that trains locally must equal."""

import numpy as np
import torch
from torch import Tensor, nn


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    rng: np.random.Generator,
    epochs: int,
    batch: int,
    lr: float,
    momentum: float,
) -> None:
    """Trains the model in place; momentum starts at zero."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for _ in range(epochs):
        for rows in torch.from_numpy(rng.permutation(len(x))).split(batch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
