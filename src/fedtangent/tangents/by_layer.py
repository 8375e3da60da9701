"""The share of every layer, or of any groups of parameters, in a tangent kernel."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.memory import out_of_memory
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.blocks import Work, empty
from fedtangent.tangents.capture.functional import Weights
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.uses import Uses, UsesDiffer
from fedtangent.tangents.capture.verified_uses import all_by_autograd, uses
from fedtangent.tangents.given import given
from fedtangent.tangents.kernel import computed, kernel
from fedtangent.tangents.numerics.kernel_parts import Kind, Part, parts
from fedtangent.tangents.plan import MEMORY, planned


@without_autocast()
def layer_kernels(
    model: nn.Module,
    x1: Any,
    x2: Any = None,
    *,
    groups: Mapping[str, Iterable[str]] | None = None,
    kind: Kind = "full",
    w: Weights | None = None,
    outputs: Outputs = None,
    memory_bytes: int = MEMORY,
) -> dict[str, Tensor]:
    """The kernel of every group of parameters: J_g J_g^T of the columns of J that belong to it. Their sum is `kernel`.

    In one pass, at the cost of `kernel` but for the results. Where groups cut through what is contracted at once (a
    tied weight, a weight without its bias, a model that is left to automatic differentiation), a pass a group.

    Args:
        model: As of `kernel`.
        x1: As of `kernel`.
        x2: As of `kernel`.
        groups: Names of parameters, or of modules that hold them, by the group's name; each trainable parameter in at
            most one. Without, a group for every module that has parameters of its own.
        kind: As of `kernel`.
        w: As of `kernel`.
        outputs: As of `kernel`.
        memory_bytes: As of `kernel`, beside all of the results.

    Returns:
        (n1, n2, C, C), (n1, n2) or (n1, n2, C) by group.

    Raises:
        TypeError, ValueError: As `kernel`; groups that are none, overlap, or name what is no trainable parameter.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
        >>> {name: tuple(k.shape) for name, k in layer_kernels(model, torch.ones(4, 2), kind="trace").items()}
        {'0': (4, 4), '2': (4, 4)}
    """
    picked, its, own, others, _ = given(model, x1, x2, w=w, outputs=outputs, name="x1", memory_bytes=memory_bytes)
    members = _members({name: part for name, part in its.items() if part.numel()}, groups)
    its = {name: its[name] for names in members.values() for name in names}  # those of no group are constants
    with torch.no_grad():
        found = uses(picked, its, own, memory_bytes)
        group_of = {name: place for place, names in enumerate(members.values()) for name in names}
        if all(len({group_of[name] for name in part.names}) == 1 for part in parts(found, its)):
            try:
                return _together(picked, its, own, others, kind, found, memory_bytes, list(members), group_of)
            except (UsesDiffer, RuntimeError) as error:
                if out_of_memory(error):
                    raise
            of = {group: {name: its[name] for name in names} for group, names in members.items()}
            return {
                group: computed(picked, part, own, others, kind, all_by_autograd(picked, part, found), memory_bytes)
                for group, part in of.items()
            }
    settings: dict[str, Any] = {"kind": kind, "outputs": outputs, "memory_bytes": memory_bytes}
    return {
        group: kernel(model, x1, x2, w={name: its[name] for name in names}, **settings)
        for group, names in members.items()
    }


def _members(w: Weights, groups: Mapping[str, Iterable[str]] | None) -> dict[str, list[str]]:
    """The parameters of every group, in the order of w."""
    if groups is None:
        found: dict[str, list[str]] = {}
        for name in w:
            found.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return found
    lists = isinstance(groups, Mapping) and all(
        isinstance(names, Iterable) and not isinstance(names, str) for names in groups.values()
    )
    if not lists:
        raise SettingTypeError(
            f"`groups` must be a dict of lists of names; got {type(groups).__name__}. Write {{'head': ['2']}}."
        )
    named = {group: list(names) for group, names in groups.items()}
    for group, names in named.items():
        for prefix in names:
            if not isinstance(prefix, str) or not any(_holds(prefix, name) for name in w):
                raise SettingError(
                    f"`groups` must name trainable parameters, or modules that hold them; got {prefix!r} in {group!r}. "
                    "Take names of model.named_parameters()."
                )
    found = {group: [name for name in w if any(_holds(p, name) for p in names)] for group, names in named.items()}
    if empty := [group for group, names in found.items() if not names] or ([] if found else ["none"]):
        raise SettingError(f"`groups` must each hold parameters; got nothing in {empty[0]!r}. Leave it out.")
    for name in w:
        if len(twice := [group for group, names in found.items() if name in names]) > 1:
            raise SettingError(
                f"`groups` must not overlap; got {name!r} in {twice[0]!r} and {twice[1]!r}. Keep it in one."
            )
    return found


def _holds(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _together(
    model: nn.Module,
    w: Weights,
    x1: Samples,
    x2: Samples | None,
    kind: Kind,
    found: Uses,
    memory_bytes: int,
    names: list[str],
    group_of: dict[str, int],
) -> dict[str, Tensor]:
    """All groups in one pass."""
    plan = planned(found, w, x1, x2, kind, memory_bytes)

    def group(part: Part) -> int:
        return group_of[part.names[0]]

    used, like = {group(part) for part in parts(found, w)}, next(iter(w.values()))
    outs = [empty(plan, like) if place in used else empty(plan, like).zero_() for place in range(len(names))]
    for _ in Work(model, w, found, plan).fill(outs, x1, x2, group):
        pass
    return {name: out.movedim(2, 1) if kind == "full" else out for name, out in zip(names, outs, strict=True)}
