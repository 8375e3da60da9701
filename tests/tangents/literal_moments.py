"""The moments of linear maps as sums over samples and positions, and models to try them on."""

import itertools
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent.shard import Shard
from fedtangent.training.losses import Loss
from tests.tangents.networks import INPUTS, OUTPUTS, Example, everything, jacobian, weights

EXAMPLES = everything()


class Cell(nn.Module):
    """A linear map that is used twice, with another below it."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.cell, self.upper = nn.Linear(INPUTS, 5), nn.Linear(5, 5), nn.Linear(5, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.upper(torch.tanh(self.cell(torch.tanh(self.cell(self.lower(x))))))


class Own(nn.Module):
    """Attention of tokens among themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Frames(nn.Module):
    """A convolution whose batch axis holds the frames of one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Conv2d(2, 4, (2, 3), groups=2, bias=False), nn.Linear(4, OUTPUTS)

    def forward(self, x: Tensor) -> Tensor:
        frames = torch.tanh(self.lower(x.flatten(0, 1)))
        return self.upper(frames.unflatten(0, x.shape[:2]).mean((1, 3, 4)))


def kronecker() -> dict[str, Example]:
    """Models of linear maps alone."""
    torch.manual_seed(6)
    one_d = [nn.Conv1d(2, 4, 3, stride=2, padding=2, dilation=2), nn.Tanh(), nn.Conv1d(4, 6, 2, groups=2, bias=False)]
    two_d = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    same = nn.Conv2d(4, 3, (3, 2), padding="same", dilation=(1, 2))
    found = {name: EXAMPLES[name] for name in ("one layer", "gated", "no bias", "deep", "one output", "tokens")} | {
        "skip": EXAMPLES["skip"],
        "a map used twice": Example(Cell(), (INPUTS,)),
        "conv1d": Example(nn.Sequential(*one_d, nn.Flatten(), nn.Linear(24, OUTPUTS)), (2, 9)),
        "conv2d": Example(
            nn.Sequential(two_d, nn.Tanh(), same, nn.GELU(), nn.Flatten(), nn.Linear(36, OUTPUTS)), (2, 6, 6)
        ),
        "frames": Example(Frames(), (3, 2, 4, 5)),
        "attention to itself": Example(Own(), (4, 6)),
    }
    return {name: example._replace(model=example.model.double()) for name, example in found.items()}


KRONECKER = kronecker()


def rows(example: Example, count: int = 5, squared: bool = False, seed: int = 0) -> Shard:
    x, rng = example.samples(count, seed), np.random.default_rng(seed)
    outputs = example.model(x[:1]).shape[1]
    y = rng.normal(size=(count, outputs)) if squared else rng.integers(0, outputs, count)
    return Shard(x, torch.from_numpy(y), torch.ones(count, dtype=torch.bool))


def hessian(loss: Loss, f: Tensor, y: Tensor) -> Tensor:
    """d^2 loss / d f^2 of one sample, f (C,)."""
    return torch.func.jacrev(torch.func.jacrev(lambda f: loss.per_sample(f[None], y[None])[0]))(f)  # type: ignore[no-any-return]


def positions(part: nn.Module, a: Tensor, z: Tensor) -> Iterator[tuple[int, Tensor, Callable[[Tensor], Tensor]]]:
    """(group, u, d -> its numbers there), of every position of a layer's call on one sample."""
    bias = [torch.ones(1, dtype=a.dtype)] if getattr(part, "bias", None) is not None else []
    if isinstance(part, nn.Linear):
        for place in itertools.product(*map(range, z.shape[:-1])):
            yield 0, torch.cat([a[place], *bias]), lambda d, place=place: d[place]
        return
    assert isinstance(part, (nn.Conv1d, nn.Conv2d))
    axes = len(part.kernel_size)
    for axis in range(axes):
        total = part.dilation[axis] * (part.kernel_size[axis] - 1)
        sides = (total // 2, total - total // 2) if part.padding == "same" else (part.padding[axis],) * 2  # type: ignore[arg-type]
        zeros = [torch.zeros([*a.shape[: 2 + axis], side, *a.shape[3 + axis :]], dtype=a.dtype) for side in sides]  # type: ignore[arg-type]
        a = torch.cat([zeros[0], a, zeros[1]], 2 + axis)
    own, fan_out = part.in_channels // part.groups, part.out_channels // part.groups
    for frame, group in itertools.product(range(len(z)), range(part.groups)):
        for place in itertools.product(*map(range, z.shape[2:])):
            u = [
                a[frame, channel][tuple(np.array(place) * part.stride + np.array(tap) * part.dilation)]
                for channel in range(group * own, (group + 1) * own)
                for tap in itertools.product(*map(range, part.kernel_size))
            ]
            out = slice(group * fan_out, (group + 1) * fan_out)
            yield group, torch.cat([torch.stack(u), *bias]), lambda d, i=frame, p=place, out=out: d[(i, out, *p)]


class Seen(NamedTuple):
    """A layer's call on one sample: inputs and results."""

    name: str
    part: nn.Module
    a: Tensor
    z: Tensor


class Pair(NamedTuple):
    """A and B, (G, I, I) and (G, O, O)."""

    a: Tensor
    b: Tensor


def watched(model: nn.Module) -> list[Seen]:
    """Where every call of a layer is noted from now on."""
    calls: list[Seen] = []

    def note(name: str, part: nn.Module) -> Callable[..., Tensor]:
        def hook(_: nn.Module, given: tuple[Tensor], z: Tensor) -> Tensor:
            calls.append(Seen(name, part, given[0].detach().clone(), z))
            return z.clone()  # what follows may work in place

        return hook

    for name, part in model.named_modules():
        if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            part.register_forward_hook(note(name, part))
    return calls


def literal(model: nn.Module, data: Shard, loss: Loss) -> dict[str, Pair]:
    """A and B of every layer: a loop over samples, layers, positions; reactions by autograd, H by its definition."""
    model = deepcopy(model)
    calls, found = watched(model), dict[str, Pair]()
    for n in range(len(data.x)):
        calls.clear()
        f = model(data.x[n : n + 1])[0]
        h = hessian(loss, f.detach(), data.y[n])
        for seen in calls:
            d = torch.stack([torch.autograd.grad(one, seen.z, retain_graph=True)[0] for one in f])
            groups = getattr(seen.part, "groups", 1)
            count = sum(len(list(positions(*each[1:]))) for each in calls if each.name == seen.name) // groups
            key = ",".join(f"{seen.name}.{part}".lstrip(".") for part, _ in seen.part.named_parameters())
            for group, u, there in positions(*seen[1:]):
                react = torch.stack([there(row) for row in d])
                sizes = len(u), react.shape[1]
                found.setdefault(key, Pair(*(torch.zeros(groups, size, size).double() for size in sizes)))
                found[key].a[group] += torch.outer(u, u)
                found[key].b[group] += react.T @ h @ react / count
    return found


def ggn(model: nn.Module, data: Shard, loss: Loss) -> Tensor:
    """J^T H J summed over the rows, (P, P), parameters in their order."""
    j, f = jacobian(model, data.x), model(data.x).detach()
    return sum(j[n].T @ hessian(loss, f[n], data.y[n]) @ j[n] for n in range(len(j)))  # type: ignore[return-value]


def part_of(matrix: Tensor, model: nn.Module, key: str) -> Tensor:
    """The block of some parameters, in the order of the key."""
    sizes = [p.numel() for p in weights(model).values()]
    ranges = dict(zip(weights(model), torch.arange(sum(sizes)).split(sizes), strict=True))
    place = torch.cat([ranges[name] for name in key.split(",")])
    return matrix[place][:, place]
