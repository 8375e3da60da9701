"""A kernel of streamed samples, written to disk tile by tile, that goes on after a kill to the same bits.

Beside the file, an array of numpy's format or a memmap, lies NAME.progress: a JSON record of what the kernel is made
of, a digest of every block of samples, and how many tiles are done. A tile counts once it is on the disk. A memmap that
is a part of a file has a record of its own, NAME.START.progress, by the byte where it starts.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.tangents.capture.samples import Samples
from fedtangent.tangents.capture.stream import Stream, digest

Out = str | Path | np.memmap
Tile = Callable[[Samples, Samples | None], Tensor]  # of rows, and of columns where these are others

# Samples on which a model is looked at.
_DRAWN = 16
# What is compared but for rounding.
_VALUES = "outputs of some samples"

_NUMPY: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


class Changed(SettingError):
    """Samples are others than at the first pass."""


class Progress(NamedTuple):
    """Tiles that are on the disk, all tiles, and the array."""

    done: int
    of: int
    array: np.memmap


@dataclass(frozen=True)
class Blocks:
    """Samples in blocks, with what tells that every pass gives the same ones.

    Attributes:
        stream: Where they come from.
        size: Samples in a block, but for the last.
        count: All samples.
        digests: One a block.
        few: Some of the samples, drawn from all.
    """

    stream: Stream
    size: int
    count: int
    digests: tuple[str, ...]
    few: Samples

    def slice(self, number: int) -> slice:
        """The samples of a block."""
        return slice(number * self.size, min((number + 1) * self.size, self.count))

    def start(self, number: int = 0) -> Iterator[tuple[int, Samples]]:
        """Numbered blocks from one of them on, the same at every pass.

        Raises:
            ValueError: Others than at the first pass.
        """
        at = number
        for at, x in enumerate(self.stream.blocks(self.size, number), number):
            if at >= len(self.digests) or digest(x) != self.digests[at]:
                raise self._others(at)
            yield at, x
        if at < len(self.digests) - 1:
            raise self._others(at + 1)

    def _others(self, at: int) -> Changed:
        return Changed(
            f"`{self.stream.name}` must give the same samples at every pass; got others from sample {at * self.size} "
            "on. Set shuffle=False, and leave out random augmentation."
        )


def blocks(stream: Stream, size: int) -> Blocks:
    """One pass over the samples: how many, their digests, and a few drawn from all of them."""
    count, found = 0, []
    rng = np.random.default_rng(0)
    drawn: list[tuple[float, int, Samples]] = []
    for x in stream.blocks(size):
        keys = rng.random(len(x))
        few = np.argsort(keys)[:_DRAWN].tolist()
        drawn = sorted([*drawn, *((keys[i], count + i, x[i : i + 1].clone()) for i in few)], key=itemgetter(0))[:_DRAWN]
        count += len(x)
        found.append(digest(x))
    parts = [x for _, _, x in sorted(drawn, key=itemgetter(1))]
    return Blocks(stream, size, count, tuple(found), trees.map(lambda *leaves: torch.cat(leaves), *parts))


def made_of(model: torch.nn.Module, w: dict[str, Tensor], outputs: Any, memory_bytes: int, f: Tensor) -> dict[str, Any]:
    """What decides the bits of a kernel beside samples and kind; `f` are the outputs of a few of its samples.

    These tell what neither weights nor names do: another function as `outputs`, or a number that the model keeps.
    """
    along = torch.cos(torch.arange(f.shape[1], dtype=torch.float64, device=f.device))
    told = hashlib.blake2b(str(model).encode(), digest_size=16)
    for name, part in {**model.state_dict(), **w}.items():
        if isinstance(part, Tensor):
            told.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
            told.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    picked = outputs if outputs is None or isinstance(outputs, (str, int)) else getattr(outputs, "__qualname__", "")
    return {
        "model and weights": told.hexdigest(),
        "parameters": sorted(w),
        "outputs": picked,
        _VALUES: (f.to(torch.float64) @ along).tolist(),
        "memory_bytes": memory_bytes,
        "version of torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": next(iter(w.values())).device.type,
    }


def written(
    out: Out,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    rows: Blocks,
    columns: Blocks | None,
    tile: Tile,
    made: dict[str, Any],
) -> Iterator[Progress]:
    """Fills the file; yields how far it is, at the start and after every tile.

    Args:
        out: A path, new or begun by the same call; or a memmap of the shape.
        shape: Of the result, (n1, n2, ...).
        dtype: Of its numbers.
        rows: Samples of the rows.
        columns: Of the columns; without, those of the rows.
        tile: The kernel of two blocks; of one with itself where the second is None.
        made: As `made_of` tells.

    Raises:
        TypeError: No path and no memmap.
        ValueError: A file that holds something else; no room on the disk; samples that change from pass to pass.
    """
    its = {**made, "shape": list(shape), "type": str(dtype), "samples": rows.digests}
    its = {**its, "other samples": None if columns is None else columns.digests}
    record, array, done, last = _opened(out, shape, _NUMPY[dtype], json.loads(json.dumps(its)))
    fresh = not done and not last
    pairs = [
        (i, j)
        for i in range(len(rows.digests))
        for j in range(i if columns is None else 0, len((columns or rows).digests))
    ]

    def place(i: int, j: int) -> tuple[slice, slice]:
        return rows.slice(i), (columns or rows).slice(j)

    def kept(i: int, j: int) -> str:
        return digest(torch.from_numpy(array[place(i, j)]))

    if done and kept(*pairs[done - 1]) != last:
        done = 0  # the file was emptied or written over
    yield Progress(done, len(pairs), array)
    try:
        for i in sorted({i for i, _ in pairs[done:]}):
            due = {pair for pair in pairs[done:] if pair[0] == i}
            for j, own, other in _pairs(rows, columns, i):
                if (i, j) not in due:
                    continue
                found = tile(own, other)
                _put(array, place(i, j), found)
                if columns is None and i != j:
                    _put(array, place(j, i), _transposed(found))
                array.flush()
                done += 1
                _noted(record, {**its, "done": done, "last tile": kept(i, j)})
                yield Progress(done, len(pairs), array)
    except Changed:
        if fresh:  # nobody can go on with it
            _removed(record, None if isinstance(out, np.memmap) else _path(out))
        raise


def _pairs(rows: Blocks, columns: Blocks | None, i: int) -> Iterator[tuple[int, Samples, Samples | None]]:
    """The blocks that a block of rows meets: in one pass over its own samples where there are no others."""
    passing = rows.start(i)
    own = next(passing)[1]
    if columns is None:
        yield i, own, None
        yield from ((j, own, other) for j, other in passing)
    else:
        yield from ((j, own, other) for j, other in columns.start())


def _put(array: np.memmap, at: tuple[slice, slice], tile: Tensor) -> None:
    array[at] = tile.cpu().numpy()


def _transposed(tile: Tensor) -> Tensor:
    return tile.permute(1, 0, 3, 2) if tile.dim() == 4 else tile.transpose(0, 1)


def _removed(*paths: Path | None) -> None:
    for path in paths:
        with suppress(OSError):  # some systems keep a file that is open
            if path is not None:
                path.unlink(missing_ok=True)


def _opened(
    out: Out, shape: tuple[int, ...], dtype: np.dtype[Any], its: dict[str, Any]
) -> tuple[Path, np.memmap, int, str]:
    """The record's path, the array, how many tiles are done, and a digest of the last of them."""
    try:
        return _looked_up(out, shape, dtype, its)
    except OSError as error:
        raise SettingError(
            f"`out` must be a file that can be written; got {error.strerror} at {str(_named(out))!r}. Name another."
        ) from error


def _looked_up(
    out: Out, shape: tuple[int, ...], dtype: np.dtype[Any], its: dict[str, Any]
) -> tuple[Path, np.memmap, int, str]:
    path = _path(out)
    start = _start(out, path) if isinstance(out, np.memmap) else 0
    record = path.with_name(f"{path.name}{f'.{start}' if start else ''}.progress")
    begun = _read(record)
    if isinstance(out, np.memmap):
        array = out
    elif begun is None or not path.exists():
        if path.exists():
            raise SettingError(
                f"`out` must be a new file, or a kernel begun with the same arguments; got {str(path)!r}, which has no "
                "record. Name another, or give it as a memmap to overwrite it."
            )
        _noted(record, {**its, "done": 0})
        begun = None
        array = _new(path, shape, dtype)
    else:
        array = _existing(path)
    if tuple(array.shape) != shape or array.dtype != dtype or array.mode not in ("r+", "w+"):
        raise SettingError(
            f"`out` must be {shape} of {dtype}, open for writing; got {tuple(array.shape)} of {array.dtype}, "
            f"opened as {array.mode!r}. Name a new file, or open it as 'r+'."
        )
    if begun is None:
        _noted(record, {**its, "done": 0})
        return record, array, 0, ""
    if other := [name for name, one in its.items() if not _same(begun.get(name), one, name == _VALUES)]:
        other = [name for name in other if name != _VALUES] or other  # which follow from all else
        raise SettingError(
            f"`out` must be a kernel begun with the same arguments; got one of another {', '.join(other)}. "
            f"Finish that one, or delete {str(path)!r} and {str(record)!r}."
        )
    return record, array, int(begun["done"]), str(begun.get("last tile"))


def _same(one: Any, other: Any, rounded: bool) -> bool:
    if not rounded or one is None or len(one) != len(other):
        return bool(one == other)
    return np.allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max(), equal_nan=True)


def _named(out: Any) -> Any:
    return out.filename if isinstance(out, np.memmap) else out


def _path(out: Out) -> Path:
    if isinstance(out, np.memmap):
        if out.filename is None:
            raise SettingError("`out` must be a memmap of a named file; got one without a name. Open it by its path.")
        return Path(out.filename)
    if not isinstance(out, (str, Path)):
        raise SettingTypeError(f"`out` must be a path or a memmap; got {type(out).__name__}. Name a file.")
    path = Path(out).absolute()
    if "\0" in str(path) or not path.parent.is_dir() or path.is_dir():
        raise SettingError(f"`out` must be a file in a folder that exists; got {str(out)!r}. Make its folder.")
    return path


def _start(out: np.memmap, path: Path) -> int:
    """The byte of the file where the array begins; 0 where it is that of all numbers."""
    whole = out
    while isinstance(whole.base, np.memmap):
        whole = whole.base
    start: int = out.ctypes.data - whole.ctypes.data + whole.offset
    try:
        first = np.lib.format.open_memmap(path, mode="r").offset
    except ValueError:  # numbers without a header
        first = 0
    return 0 if start == first else start


def _new(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap:
    """An array whose room on the disk is taken, for a disk that fills up ends a process that writes to a memmap."""
    draft = path.with_name(path.name + ".new")
    try:
        array = np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with draft.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, draft.stat().st_size)
        del array
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise SettingError(
            f"`out` must lie where there is room for {int(np.prod(shape)) * dtype.itemsize} bytes; "
            f"got {error.strerror} at {str(path)!r}. Name another disk."
        ) from error
    return _existing(path)


def _existing(path: Path) -> np.memmap:
    try:
        found: np.memmap = np.lib.format.open_memmap(path, mode="r+")
    except (ValueError, OSError) as error:
        raise SettingError(
            f"`out` must be an array of numpy's format; got {str(path)!r}: {error}. Delete it to begin anew."
        ) from error
    return found


def _read(record: Path) -> dict[str, Any] | None:
    if not record.exists():
        return None
    try:
        found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        int(found["done"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(
            f"`out` must have a record that can be read; got {str(record)!r}: {error}. Delete it and the kernel."
        ) from error
    return found


def _noted(record: Path, its: dict[str, Any]) -> None:
    """Writes the record, whole or not at all."""
    draft = record.with_name(record.name + ".new")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(its, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, record)


def block_size(sample: Samples, pair_bytes: int, memory_bytes: int) -> int:
    """Samples on either side of a tile, so that two blocks and the tile fit in so many bytes; one at the least."""
    # 2 s r + p r^2 <= memory, with a copy of a block while it is put together
    s: int = 3 * sum(leaf.element_size() * leaf.numel() for leaf in trees.leaves(sample))
    return max(1, int((-s + (s * s + 4 * pair_bytes * memory_bytes) ** 0.5) / (2 * pair_bytes)))


def tile_bytes(sample: Samples, pair_bytes: int, size: int) -> int:
    """What two blocks and a tile take."""
    each: int = sum(leaf.element_size() * leaf.numel() for leaf in trees.leaves(sample))
    return 3 * each * size + pair_bytes * size**2
