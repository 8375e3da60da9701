"""Rules: how a node averages its neighbourhood, or a server its clients, when some of them may lie.

A rule is given single messages, as rows of numbers, and gives one row. In a sum, the rule's average of what is
contributed per row of data, times all rows, takes the place of the plain one, tensor by tensor, since gradients and
curvature have scales of their own. A message that is not finite, or of another shape than most, is as if absent.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import optree
import torch
from torch import Tensor

from fedtangent import many, shard, trees
from fedtangent.errors import SettingError, SettingTypeError

Sums = Literal["screen", "clip", "rule"]


class Given(NamedTuple):
    """What a rule averages.

    Attributes:
        x: The messages, (m, P).
        weights: Theirs in a plain average, (m,); they sum to 1.
        own: Which is the receiver's own; None at a server.
        liars: How many of the others may lie: as many as the rule was told, or fewer where it has got too few messages.
    """

    x: Tensor
    weights: Tensor
    own: int | None
    liars: int


class Rule(NamedTuple):
    """A robust average.

    Attributes:
        average: Gives (P,).
        liars: How many of the senders may lie; None where no number is asked for, and fewer than half may.
        least: How many messages it must have, its receiver's own included, for so many liars.
        centred: Whether it needs the receiver's own message, and so neighbours.
        groups: How many messages are added up before the rule sees them, at a server.
        sums: What it does to contributions of sums: `screen` leaves out those that cannot be, `clip` also shortens as
            many of the longest as may be lies, `rule` takes the rule of what they bring per row, tensor by tensor.
    """

    average: Callable[[Given], Tensor]
    liars: int | None
    least: Callable[[int], int]
    centred: bool = False
    groups: int = 1
    sums: Sums = "clip"

    def tolerated(self, senders: int) -> int:
        """How many of so many senders may lie, up to the number that the rule was told."""
        if self.liars is None:
            return max((senders - 1) // 2, 0)
        return next((liars for liars in range(self.liars, 0, -1) if self.least(liars) <= senders), 0)


def checked(liars: int) -> int:
    """The number of liars that a rule is told, where it can be one.

    Raises:
        ValueError: It is negative.
    """
    if liars < 0:
        raise SettingError(f"`liars` must not be negative; got {liars}. Give how many of a neighbourhood may lie.")
    return liars


def averaged(rule: Rule, values: Sequence[Any], weights: Sequence[float], own: int | None) -> Any:
    """The rule's average of trees of one form, each a vector; what is no float is the receiver's own, or the first."""
    return _combined(rule, values, weights, own, whole=True)


def totalled(rule: Rule, values: Sequence[Any], rows: Sequence[float], own: int | None) -> Any:
    """The sum of contributions, as the rule takes sums; numbers that are no floats are added in any case.

    Args:
        rule: The rule.
        values: Contributions of one form.
        rows: How many rows are in each, positive.
        own: Which is the receiver's own.
    """
    if rule.sums == "rule":
        return _ruled(rule, values, rows, own)
    if rule.sums == "clip":
        values = _clipped(values, rows, rule.tolerated(len(values)))
    return trees.weighted_sum(values, [1] * len(values))


def _clipped(values: Sequence[Any], rows: Sequence[float], liars: int) -> list[Any]:
    """The contributions, of every tensor those of the most length per row shortened to that of the next."""
    columns = list(zip(*(trees.leaves(value) for value in values), strict=True))
    found = []
    for column in columns:
        if not _averages(column[0]) or not liars:
            found.append(column)
            continue
        length = torch.stack([leaf.norm() / n for leaf, n in zip(column, rows, strict=True)])
        bound = length.sort().values[len(column) - 1 - liars]
        scale = torch.where(length > bound, bound / length, 1)
        found.append(tuple(leaf * factor for leaf, factor in zip(column, scale, strict=True)))
    spec = optree.tree_structure(values[0])
    return [optree.tree_unflatten(spec, list(its)) for its in zip(*found, strict=True)]


def _ruled(rule: Rule, values: Sequence[Any], rows: Sequence[float], own: int | None) -> Any:
    """All rows times the rule's average of value / rows, weighted by rows, tensor by tensor."""
    count = sum(rows)
    means = [
        trees.map(lambda leaf, n=n: leaf / n if _averages(leaf) else leaf, value)
        for value, n in zip(values, rows, strict=True)
    ]
    mean = _combined(rule, means, [n / count for n in rows], own, whole=False)
    leaves = zip(*(trees.leaves(value) for value in values), strict=True)
    plain = iter([sum(column) for column in leaves if not _averages(column[0])])
    return trees.map(lambda leaf: leaf * count if _averages(leaf) else next(plain), mean)


def _combined(rule: Rule, values: Sequence[Any], weights: Sequence[float], own: int | None, whole: bool) -> Any:
    columns = list(zip(*(optree.tree_leaves(value) for value in values), strict=True))
    spec = optree.tree_structure(values[0])
    found = [column[own or 0] for column in columns]
    floats = [place for place, column in enumerate(columns) if _averages(column[0])]
    liars = rule.tolerated(len(values))
    for places in [floats] if whole and floats else [[place] for place in floats]:
        dtype = columns[places[0]][0].dtype
        for place in places[1:]:
            dtype = torch.promote_types(dtype, columns[place][0].dtype)
        rows = [torch.cat([columns[place][i].reshape(-1).to(dtype) for place in places]) for i in range(len(values))]
        x = torch.stack(rows)
        average = rule.average(Given(x, x.new_tensor(weights), own, liars))
        if not isinstance(average, Tensor) or average.shape != x.shape[1:]:
            got = tuple(average.shape) if isinstance(average, Tensor) else type(average).__name__
            raise SettingTypeError(
                f"`average` of a rule must give {x.shape[1]} numbers, one a column of given.x; got {got}. Return such "
                "a tensor."
            )
        sizes = [columns[place][0].numel() for place in places]
        for place, part in zip(places, torch.split(average, sizes), strict=True):
            found[place] = part.reshape(columns[place][0].shape).to(columns[place][0].dtype)
    return optree.tree_unflatten(spec, found)


def _averages(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def kind(x: Any) -> str:
    """Structure, shapes and types of a message; where it consists of rows of data, their number does not count."""
    leaves, structure = optree.tree_flatten(x)
    first = 1 if shard.masked(x) else 0
    return _told(
        structure,
        tuple([(leaf.shape[first:], leaf.dtype) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves]),
    )


@lru_cache
def _told(structure: Any, sizes: tuple[Any, ...]) -> str:
    return f"{structure} {sizes}"


def good(groups: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Of every group of messages those that are finite, and of the form of most of its messages."""
    finite, kinds = _looked([x for group in groups for x in group])
    usual = [Counter(kinds[id(x)] for x in group).most_common(1) for group in groups]
    return [
        [x for x in group if finite[id(x)] and kinds[id(x)] == most[0][0]]
        for group, most in zip(groups, usual, strict=True)
    ]


def fit(pairs: Sequence[tuple[Any, Any]]) -> list[bool]:
    """Whether each message is finite and of the form of its receiver's own."""
    finite, kinds = _looked([x for x, _ in pairs])
    for _, own in pairs:
        if id(own) not in kinds:
            kinds[id(own)] = kind(own)
    return [finite[id(x)] and kinds[id(x)] == kinds[id(own)] for x, own in pairs]


def _looked(messages: Sequence[Any]) -> tuple[dict[int, bool], dict[int, str]]:
    """Whether each is finite, and its kind, by id; what many links carry is looked at once, and all together."""
    each = {id(x): x for x in messages}
    finite = dict(zip(each, many.are_finite([*each.values()]), strict=True))
    return finite, {key: kind(x) for key, x in each.items()}
