"""Standardise: every feature, or channel, by its mean and deviation over all sites, from sums alone; no row is told."""

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation.transport import Tag
from fedtangent.shard import Dataset
from fedtangent.transports._lines import Lines

_ROWS = 4096  # that are held in float64 at once
_LEG = 100  # of the questions before the first verb, after those of the agreement


def measured(lines: Lines, dataset: Dataset | None, features: tuple[int, ...]) -> Tensor:
    """Mean and deviation of every feature over all sites, (2, *features) in float64, the same at every process.

    The mean is sum_k sum(x) / sum_k n, the variance sum_k sum((x - mean)^2) / sum_k n over the training rows of all
    sites k. A site sends its sums to the leader alone, which sends the totals to all. A feature that is the same
    everywhere has the deviation 1.

    Args:
        lines: Between the processes.
        dataset: The site's own; None for a server.
        features: The shape of a row; 1 for an axis that is scaled as one, as height and width of images are.

    Raises:
        ValueError: A site sends something else.
    """
    x = torch.zeros(0, *features) if dataset is None else dataset.x_train
    axes = (0, *(axis for axis, size in enumerate(features, 1) if size == 1))

    def total(number: int, part: Callable[[Tensor], Tensor]) -> Tensor:
        own = [part(rows.double()).sum(axes, keepdim=True)[0] for rows in torch.split(x, _ROWS)]
        return _total(lines, number, torch.stack(own).sum(0))

    count = _total(lines, 0, torch.tensor(float(math.prod(x.shape[axis] for axis in axes)), dtype=torch.float64))
    mean = total(1, lambda rows: rows) / count
    std = (total(2, lambda rows: (rows - mean) ** 2) / count).sqrt()
    return torch.stack([mean, torch.where(std > 0, std, 1.0)])


def passed_on(lines: Lines, known: Sequence[float] | None, features: tuple[int, ...]) -> Tensor:
    """`measured` of a run that has begun earlier: what the leader has kept of it, on every process.

    Args:
        lines: As of `measured`.
        known: What the leader has kept; not looked at elsewhere.
        features: As of `measured`.

    Raises:
        ValueError: The leader sends something else.
    """
    down = Tag(0, _LEG)
    if lines.place:  # which may have kept it too, from the sitting before
        own = torch.zeros(2, *features, dtype=torch.float64)
        (found,) = lines.swap(down, {}, [0])[0]
        _check(own, [found])
        return found  # type: ignore[no-any-return]
    assert known is not None
    scale = torch.tensor(known, dtype=torch.float64).reshape(2, *features)
    lines.swap(down, {place: [scale] for place in range(1, lines.count)}, [])
    return scale


def digest(scale: Tensor) -> str:
    """Of a mean and deviation."""
    return hashlib.blake2b(scale.numpy().tobytes(), digest_size=16).hexdigest()


def standardised(dataset: Dataset, scale: Tensor) -> Dataset:
    """The site's rows with every feature x as (x - mean) / deviation, in float32."""
    mean, std = scale

    def part(x: Tensor) -> Tensor:
        return torch.cat([((rows.double() - mean) / std).float() for rows in torch.split(x, _ROWS)])

    x_train, x_test = part(dataset.x_train), part(dataset.x_test)
    return dataset._replace(x_train=x_train, x_test=x_test)


def _total(lines: Lines, number: int, own: Tensor) -> Tensor:
    """The sum of all processes' values, in the order of the address book, on every process."""
    up, down = Tag(0, _LEG + 2 * number), Tag(0, _LEG + 2 * number + 1)
    if lines.place:
        lines.swap(up, {0: [own]}, [])
        (found,) = lines.swap(down, {}, [0])[0]
    else:
        others = range(1, lines.count)
        came = {0: own, **{place: found[0] for place, found in lines.swap(up, {}, list(others)).items()}}
        parts = [came[place] for place in sorted(came, key=lines.number)]
        _check(own, parts)
        found = torch.stack(parts).sum(0)
        lines.swap(down, {place: [found] for place in others}, [])
    _check(own, [found])
    return found  # type: ignore[no-any-return]


def _check(own: Tensor, parts: list[Tensor]) -> None:
    """Raises where a site has sent something other than sums of these features."""
    if not all(isinstance(part, Tensor) and part.shape == own.shape and part.isfinite().all() for part in parts):
        raise SettingError(
            "`standardise` must have finite sums of the same features from every site; got others. Prepare the data "
            "in the same way."
        )
