"""Share: what one process of a real federation holds of its data: a site's own rows, and what is known of the others.

Of the others a process knows the number of rows and the shape of one, no more. Where a shard of theirs is asked for, it
is of zeros that take no memory; nothing is ever computed with them, since each process runs its own node alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.datasets._scale import PIXELS
from fedtangent.errors import SettingError
from fedtangent.shard import Dataset, Partition, Shard

_TYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}  # of inputs, once they are checked
# What sites must have in common, and what to do where they have not.
_COMMON = {
    "inputs": "Prepare the data in the same way.",
    "outputs": "Prepare the data in the same way.",
    "schema": "Give all of them the same file of columns, classes or tokens.",
}
_STAND_IN = 8  # rows of a process without data, on which a model is tried


class Share(NamedTuple):
    """A process's part of the data.

    Attributes:
        node: Of this process; None for a server, which holds no rows.
        rows: Training rows of every node.
        test_rows: Test rows of every node.
        digests: Of every node's rows, each made with a key that only its site has.
        present: The nodes that take part at present; None for all.
        counted: Whether the record says how many they are.
    """

    node: int | None
    rows: tuple[int, ...]
    test_rows: tuple[int, ...]
    digests: tuple[str, ...]
    present: tuple[int, ...] | None = None
    counted: bool = False

    @property
    def partition(self) -> Partition:
        """One node a site; the numbers of the rows stand for rows that are elsewhere."""
        return Partition([np.arange(rows) for rows in self.rows])

    def shards(self, x: Any, y: Tensor) -> list[Shard]:
        """A shard for every node, these rows where they are this process's own."""
        return self._shards(x, y, self.rows)

    def tests(self, x: Any, y: Tensor) -> list[Shard]:
        """The same of test rows."""
        return self._shards(x, y, self.test_rows)

    def _shards(self, x: Any, y: Tensor, rows: Sequence[int]) -> list[Shard]:
        own = Shard(x, y, torch.ones(len(y), dtype=torch.bool, device=y.device))
        return [own if node == self.node else _blank(own, count) for node, count in enumerate(rows)]


def profile(dataset: Dataset, key: bytes) -> dict[str, Any]:
    """What a site tells the others of its data before the first round.

    Args:
        dataset: The site's own, checked.
        key: That only this site has: its digest is the same next time, and nobody else can try rows against it.
    """
    parts = trees.leaves([dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test])
    digest = hashlib.blake2b(key=hashlib.sha256(key).digest(), digest_size=16)
    for leaf in parts:
        digest.update(str((tuple(leaf.shape), leaf.dtype)).encode())
        digest.update(leaf.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    labels = not dataset.y_train.is_floating_point()
    return {
        "rows": len(dataset.y_train),
        "test_rows": len(dataset.y_test),
        "inputs": trees.map(_form, dataset.x_train),
        "classes": dataset.classes,
        "outputs": None if labels else dataset.y_train.shape[1],
        "schema": dataset.schema,
        "digest": digest.hexdigest(),
    }


def joined(profiles: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What all sites' data have in common: the form of the inputs, and classes or outputs.

    Raises:
        ValueError: A site has other inputs, or targets where others have labels, or the same numbers mean other things.
    """
    (first, told), *others = profiles.items()
    for name, own in others:
        for what, remedy in _COMMON.items():
            if own[what] != told[what]:
                if what == "schema" and len({str(one[what]).startswith(PIXELS) for one in (told, own)}) > 1:
                    remedy = "Give 8-bit images at all of them, or at none."
                raise SettingError(
                    f"`{what}` must be the same at every site; got {told[what]} at {first} and {own[what]} at {name}. "
                    f"{remedy}"
                )
    return {**told, "classes": max(own["classes"] for own in profiles.values())}


def completed(name: str, dataset: Dataset | None, common: Mapping[str, Any]) -> Dataset:
    """A process's data set under the federation's name and classes; drawn rows where it has none.

    Args:
        name: Of the federation.
        dataset: The site's own; None for a server.
        common: From `joined`.
    """
    classes = common["classes"]
    if dataset is not None:
        return dataset._replace(name=name, classes=classes, site_train=None)
    rng = np.random.default_rng(0)

    def drawn(form: Sequence[Any]) -> Tensor:
        dtype, *shape = form
        size = (_STAND_IN, *shape)
        values = rng.uniform(0, 2, size) if dtype == "float32" else np.zeros(size)  # token ids, too, are float32
        return torch.from_numpy(values).to(_TYPES[dtype])

    x = _of_forms(common["inputs"], drawn)
    y = torch.arange(_STAND_IN) % classes if classes else drawn(["float32", common["outputs"]])
    return Dataset(name, x, y, x, y, classes)


def _form(leaf: Tensor) -> list[Any]:
    """Type and shape of a row of inputs, in a list of which no tree is made."""
    return [str(leaf.dtype).removeprefix("torch."), *leaf.shape[1:]]


def _of_forms(forms: Any, fn: Any) -> Any:
    """The inputs whose forms `_form` has told."""
    if isinstance(forms, Mapping):
        return {name: _of_forms(part, fn) for name, part in forms.items()}
    return tuple(_of_forms(part, fn) for part in forms) if isinstance(forms, tuple) else fn(forms)


def _blank(like: Shard, rows: int) -> Shard:
    """So many rows of zeros, of a shard's form, in the memory of one number a tensor."""

    def blank(leaf: Tensor) -> Tensor:
        return leaf.new_zeros(()).expand(rows, *leaf.shape[1:])

    return Shard(trees.map(blank, like.x), blank(like.y), like.real.new_ones(()).expand(rows))
