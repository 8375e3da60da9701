"""A random projection J R of the Jacobian that keeps the kernel: (J R) (J R)^T is J J^T on average over R.

R (P, size) has a block of rows for every parameter. Its signs are raw words of a counter-based generator (Salmon et
al., Parallel random numbers: as easy as 1, 2, 3, 2011), keyed by the seed and the parameter's name: whoever has the
seed has the same R, bit for bit, whatever the samples, their order, the machine, the device or the version of numpy.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from fedtangent.errors import SettingError
from fedtangent.tangents.autocast import without_autocast
from fedtangent.tangents.capture.functional import Weights, each
from fedtangent.tangents.capture.outputs import Outputs
from fedtangent.tangents.jacobian import Jacobian, jacobian
from fedtangent.tangents.single import check_whole

# Columns of the dense projection at a time: more would pay for linear layers, but not for convolutions.
_TOGETHER = 4
# Entries that a parameter has in the structured projection. With one the errors' tails are longer than the dense one's.
_ENTRIES = 4
# Numbers of J at a time.
_BLOCK = 2**22


@without_autocast()
def sketch(
    model: nn.Module,
    x: Any,
    size: int,
    *,
    kind: Literal["dense", "structured"] = "dense",
    seed: int = 0,
    w: Weights | None = None,
    outputs: Outputs = None,
) -> Tensor:
    """S = J R (n, C, size), with E[S S^T] = K = J J^T over seeds: the full kernel is S_nc . S_md.

    S.flatten(1) / sqrt(C) does the same for the trace kernel. An entry of S S^T has, for either kind and any model, the
    variance

        (|J_i|^2 |J_j|^2 + K_ij^2 - 2 sum_p J_ip^2 J_jp^2) / size,

    so that its standard error is at most sqrt((K_ii K_jj + K_ij^2) / size), and that of the whole, |S S^T - K|_F, at
    most sqrt(((tr K)^2 + |K|_F^2) / size). A row of S depends on its own sample only: parts of the samples, sketched
    apart, are parts of the sketch.

    `dense`: R holds +-1 / sqrt(size) (Achlioptas, Database-friendly random projections, 2003). A column of J R is a
    product with the forward derivative, some 3 forward passes; there are 4 P numbers beside the passes' own. A smaller
    sketch under the same seed is the first columns of a larger one, but for their scale.

    `structured`: every parameter has four entries, one in each quarter of the columns, at a random place (Kane and
    Nelson, Sparser Johnson-Lindenstrauss transforms, 2014). Costs C backward passes and 8 C P operations a sample,
    whatever the size; in memory are R, 32 P bytes in float32 and 100 P while it is drawn, and three copies of a block
    of J, of 16 MiB or of one sample's C P numbers where these are more. On one core the kinds cost the same at some 800
    columns for 784-100-10, at 30 for ResNet-8; beyond, this one is faster.

    A sketch whose seed is known must be treated as the samples themselves: they can be recovered from it.

    Args:
        model: With outputs (n, C); in eval mode where it has batch norm or dropout.
        x: Inputs, (n, ...), or a dict or a tuple of them for model(**x) or model(*x).
        size: Columns of R.
        kind: `dense` or `structured`.
        seed: Any whole number, of any length; a secret one should have 128 bits.
        w: Weights at which J is taken; the model's own where not given.
        outputs: Which part of the model's result its outputs are: a name such as "logits", an index or a function.

    Raises:
        TypeError: As `jacobian`.
        ValueError: A size below 1, another kind, a model or weights that `jacobian` does not take.

    Example:
        >>> model, x = torch.nn.Linear(5, 3), torch.ones(4, 5)
        >>> s = sketch(model, x, 200, kind="structured", seed=7)
        >>> (s.flatten(0, 1) @ s.flatten(0, 1).T).shape  # K, 12 by 12
        torch.Size([12, 12])
    """
    check_whole("size", size)
    check_whole("seed", seed)
    if size < 1:
        raise SettingError(f"`size` must be at least 1; got {size}. The error falls with its square root: try 1000.")
    if kind not in ("dense", "structured"):
        raise SettingError(f"`kind` must be 'dense' or 'structured'; got {kind!r}. Choose one of the two.")
    j = jacobian(model, x, w=w, outputs=outputs)
    with torch.no_grad():
        return (_dense if kind == "dense" else _structured)(j, size, int(seed))


def projection(w: Weights, size: int, seed: int) -> Weights:
    """R of the dense kind: a tree like w with a leading axis of columns, 4 P size bytes in float32."""
    return {name: _signs(seed, name, range(size), part).div_(size**0.5) for name, part in w.items()}


def _dense(j: Jacobian, size: int, seed: int) -> Tensor:
    found = j.f.new_empty(*j.f.shape, size)
    for columns in torch.split(torch.arange(size, device="cpu"), _TOGETHER):
        r = {name: _signs(seed, name, columns.tolist(), part) for name, part in j.w.items()}
        found[..., columns[0] : columns[-1] + 1] = each(j.jvp, r).movedim(0, -1)
    return found.div_(size**0.5)


def _signs(seed: int, name: str, columns: Sequence[int], like: Tensor) -> Tensor:
    """Columns of R for one parameter, +-1, (columns, *like.shape)."""
    words = np.stack([_words(seed, "dense", name, column, -(-like.numel() // 64)) for column in columns])
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, bitorder="little", count=like.numel())
    return torch.from_numpy(bits).to(like.device).to(like.dtype).mul_(2).sub_(1).reshape(len(columns), *like.shape)


def _structured(j: Jacobian, size: int, seed: int) -> Tensor:
    order, entries, starts = _entries(seed, size, j.w)
    outputs, count = j.shape[1:]
    found = []
    for part in j.x.split(max(1, _BLOCK // (outputs * count))):
        rows = j.rows(part)
        # weighted sums over bags of a table's rows: a product with the sparse R^T
        its = embedding_bag(order, rows.flatten(0, 1).T.contiguous(), starts, mode="sum", per_sample_weights=entries)
        found.append(its.T.reshape(len(part), outputs, size))
    return torch.cat(found)


def _entries(seed: int, size: int, w: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """R column by column: where in w its entries are, the entries, and where among them a column begins."""
    quarters = [len(part) for part in np.array_split(np.arange(size), min(_ENTRIES, size))]
    columns, entries = [], []
    for i, quarter in enumerate(quarters):
        for name, part in w.items():
            words = _words(seed, "structured", name, i, part.numel())
            # the column by the lower half of a word, the sign by its highest bit
            column = ((words & np.uint64(2**32 - 1)) * np.uint64(quarter)) >> np.uint64(32)
            columns.append(column.astype(np.int32) + sum(quarters[:i]))
            # uneven quarters weigh by their columns, which keeps the variance
            entries.append(np.where(words >> np.uint64(63), -1.0, 1.0) * (quarter / size) ** 0.5)
    column, entry = np.concatenate(columns), np.concatenate(entries)
    order = np.argsort(column, kind="stable")
    starts = np.searchsorted(column[order], np.arange(size))
    like = next(iter(w.values()))
    index = torch.int32 if len(order) < 2**31 else torch.int64
    return (
        torch.from_numpy(order % (len(order) // len(quarters))).to(like.device, index),
        torch.from_numpy(entry[order]).to(like.device, like.dtype),
        torch.from_numpy(starts).to(like.device, index),
    )


def _words(seed: int, kind: str, name: str, stream: int, count: int) -> np.ndarray:
    """Raw words of 64 bits: the only output of numpy's generators that no version may change."""
    key = hashlib.blake2b(f"{seed}/{kind}/{name}".encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(key, "little"), counter=stream << 192).random_raw(count)
