"""Standardise: every feature by its mean and deviation over all sites, from sums alone; no row is told."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.federation.transport import Tag
from fedtangent.shard import Dataset
from fedtangent.transports._lines import Lines

_LEG = 100  # of the questions before the first verb, after those of the agreement


def measured(lines: Lines, dataset: Dataset | None, features: tuple[int, ...]) -> Tensor:
    """Mean and deviation of every feature over all sites, (2, *features) in float64, the same at every process.

    The mean is sum_k sum(x) / sum_k n, the variance sum_k sum((x - mean)^2) / sum_k n over the training rows of all
    sites k. A site sends its sums to the leader alone, which sends the totals to all. A feature that is the same
    everywhere has the deviation 1.

    Args:
        lines: Between the processes.
        dataset: The site's own; None for a server.
        features: The shape of a row.

    Raises:
        ValueError: A site sends something else.
    """
    x = torch.zeros(0, *features, dtype=torch.float64) if dataset is None else dataset.x_train.double()
    rows = _total(lines, 0, torch.tensor(float(len(x)), dtype=torch.float64))
    mean = _total(lines, 1, x.sum(0)) / rows
    std = (_total(lines, 2, ((x - mean) ** 2).sum(0)) / rows).sqrt()
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
    x_train, x_test = (((part.double() - mean) / std).float() for part in (dataset.x_train, dataset.x_test))
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
