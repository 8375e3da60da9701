"""Groups: a model's parameters layer by layer, in the order in which a forward pass uses them.

A weight layer (convolution, dense, embedding) begins a group; a normalisation, and whatever else has vectors only,
joins the layer whose output it takes. Attention is one group, and so is what lies beside it in an encoder layer: its
dense layers and normalisations. So a shortcut's convolution is a group with its normalisation, and a classifier the
last. These are FedPart's groups (Wang et al., NeurIPS 2024) of ResNet-8, ResNet-18 and the transformer.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.training.task import Task

Groups = list[tuple[str, ...]]

_ATTENDS = {
    torch.softmax, Tensor.softmax, F.softmax, F.scaled_dot_product_attention, F.multi_head_attention_forward,
}  # fmt: skip


def layer_groups(task: Task) -> Groups:
    """The groups of a task's model, found by a forward pass of its example; without one, in the model's own order.

    Raises:
        ValueError: The forward pass leaves a parameter unused.
    """
    owners = _owners(task)
    seen = _Pass(task)
    if task.example is not None:
        seen.run(task.example)
        unused = [name for name in task.w_0 if name not in seen.order]
        if unused:
            raise SettingError(
                f"`model` must use every trainable parameter; got {unused[0]!r} unused. Freeze it with "
                "requires_grad_(False), or remove it."
            )
    blocks = _blocks(task.model, seen.attends or [m for m in owners if isinstance(m, nn.MultiheadAttention)])
    place = {name: i for i, name in enumerate(seen.order or task.w_0)}
    groups: list[list[str]] = []
    of_block: dict[int, list[str]] = {}
    of_owner: dict[nn.Module, list[str]] = {}
    for owner, names in sorted(owners.items(), key=lambda item: min(place[name] for name in item[1])):
        block = blocks.get(owner)
        if block in of_block:
            group = of_block[block]
        elif block is None and groups and _joins(owner, task.w_0, names):
            group = of_owner.get(seen.source.get(owner), groups[-1])  # type: ignore[arg-type]
        else:
            groups.append(group := [])
        if block is not None:
            of_block[block] = group
        of_owner[owner] = group
        group += names
    return [tuple(group) for group in sorted(groups, key=lambda group: _begins(group, task.w_0, place))]


def chosen(task: Task, groups: Iterable[Sequence[str]]) -> Groups:
    """Groups given by hand, of the names of parameters or of modules, which stand for all parameters inside.

    Raises:
        ValueError: A name that the model does not have, or a parameter in no group or in several.
    """
    made: Groups = []
    for group in groups:
        names: list[str] = []
        for given in [group] if isinstance(group, str) else group:
            inside = [name for name in task.w_0 if name == given or name.startswith(f"{given}.")]
            if not inside:
                raise SettingError(
                    f"`groups` must name trainable parameters of the model, or modules; got {given!r}. "
                    f"Its parameters are {', '.join(task.w_0)}."
                )
            names += inside
        made.append(tuple(names))
    every = [name for group in made for name in group]
    for name in task.w_0:
        if every.count(name) != 1:
            raise SettingError(
                f"`groups` must hold every trainable parameter once; got {name!r} {every.count(name)} times. "
                "Put it into one group."
            )
    if not all(made):
        raise SettingError("`groups` must each hold a parameter; got an empty one. Drop it.")
    return made


class _Pass(TorchFunctionMode):
    """One forward pass: which parameter is used first, what attends, whose output a layer takes."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.order: list[str] = []
        self.attends: list[nn.Module] = []
        self.source: dict[nn.Module, nn.Module] = {}
        self._stack: list[nn.Module] = []
        self._made: dict[int, tuple[Tensor, nn.Module]] = {}  # the tensor too, so that its id is not taken again
        self._names: dict[int, str] = {}

    def run(self, x: Any) -> None:
        """Passes the example."""
        w = {name: part.detach().clone().requires_grad_() for name, part in self.task.w_0.items()}
        self._names = {id(part): name for name, part in w.items()}
        hooks: list[Any] = []
        for part in self.task.model.modules():
            hooks += [part.register_forward_pre_hook(self._enter), part.register_forward_hook(self._leave)]
        try:
            with self:
                self.task.predict(w, x)
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, part: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._stack.append(part)
        if inputs and id(inputs[0]) in self._made:
            self.source[part] = self._made[id(inputs[0])][1]

    def _leave(self, part: nn.Module, _: Any, result: Any) -> None:
        self._stack.pop()
        if isinstance(result, Tensor) and next(part.parameters(recurse=False), None) is not None:
            self._made[id(result)] = result, part

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function of torch, and notes the parameters that it is handed."""
        result = function(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) for part in trees.leaves(result)):
            given = [self._names.get(id(leaf)) for leaf in trees.leaves((args, kwargs))]
            self.order += dict.fromkeys(name for name in given if name is not None and name not in self.order)
        if function in _ATTENDS and self._stack and self._stack[-1] not in self.attends:
            self.attends.append(self._stack[-1])
        return result


def _owners(task: Task) -> dict[nn.Module, list[str]]:
    """The names of the trainable parameters that are each module's own; a tied one is its first owner's."""
    first = {
        id(part): holder for holder in reversed(list(task.model.modules())) for part in holder.parameters(recurse=False)
    }
    owners: dict[nn.Module, list[str]] = {}
    for name, part in task.model.named_parameters():
        if name in task.w_0:
            owners.setdefault(first[id(part)], []).append(name)
    return owners


def _blocks(model: nn.Module, attends: Sequence[nn.Module]) -> dict[nn.Module, int]:
    """The block of every module inside attention or beside it: attention itself, and the rest of its layer."""
    blocks: dict[nn.Module, int] = {}
    inner = [part for part in attends if part is not model and _weights(part) and _plain(part)]
    for number, part in enumerate(inner):
        blocks |= dict.fromkeys(part.modules(), 2 * number)
    for number, part in enumerate(inner):
        around = next((m for m in model.modules() if any(child is part for child in m.children())), model)
        if around is not model and _plain(around):
            blocks = dict.fromkeys(around.modules(), 2 * number + 1) | blocks
    return blocks


def _weights(part: nn.Module) -> bool:
    return any(w.dim() > 1 for w in part.parameters())


def _plain(part: nn.Module) -> bool:
    """Whether all of its layers are dense, normalisations or attention."""
    kinds = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention)
    return all(isinstance(m, kinds) for m in part.modules() if next(m.parameters(recurse=False), None) is not None)


def _joins(owner: nn.Module, w: dict[str, Tensor], names: Sequence[str]) -> bool:
    norms = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    return isinstance(owner, norms) or all(w[name].dim() < 2 for name in names)


def _begins(group: Sequence[str], w: dict[str, Tensor], place: dict[str, int]) -> int:
    """Where a pass first uses one of its matrices: a normalisation before them is not the beginning."""
    return min([place[name] for name in group if w[name].dim() > 1] or [place[name] for name in group])
