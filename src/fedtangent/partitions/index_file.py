"""Index file: the rows that a file lists for every node, such as the papers' own splits.

An .npz file holds two integer arrays: node k has the rows indices[offsets[k] : offsets[k + 1]]. A .json file holds one
list of row numbers a node. Row numbers count from 0 in the data set's canonical training order; nodes may overlap.
"""

import json
from pathlib import Path

import numpy as np
from torch import Tensor

from fedtangent import home
from fedtangent.errors import SettingError
from fedtangent.shard import Partition


def index_file(x: Tensor, y: Tensor, nodes: int | None, rng: np.random.Generator, *, path: str | Path) -> Partition:
    """The partition that a file lists, in the file's order; it draws nothing from `rng`.

    Args:
        x: Inputs, (rows, *inputs).
        y: Labels or targets; only the inputs' number is used.
        nodes: Number of nodes, which must be the file's; none takes the file's.
        rng: Not used.
        path: An .npz or .json file.

    Raises:
        ValueError: No such file, another form or number of nodes, an empty node, or a row that does not exist.
    """
    file = home.path(path)
    if file.suffix not in _READERS:
        raise SettingError(f"`path` must end in .npz or .json; got {str(path)!r}. Give an index file.")
    if not file.is_file():
        raise SettingError(f"`path` must name a file that exists; got {str(path)!r}. Check the path.")
    index = _READERS[file.suffix](file)
    if nodes is not None and len(index) != nodes:
        raise SettingError(
            f"`nodes` must be the number of nodes in {file.name}, {len(index)}; got {nodes}. "
            "Set it to the file's or use another file."
        )
    return Partition([_checked(rows, node, len(x), file) for node, rows in enumerate(index)])


def _checked(rows: np.ndarray, node: int, samples: int, file: Path) -> np.ndarray:
    if len(rows) == 0:
        raise SettingError(
            f"`path` must give every node a row; got none for node {node} in {file.name}. Remove the node."
        )
    strange = rows[(rows < 0) | (rows >= samples)]
    if len(strange):
        raise SettingError(
            f"`path` must list rows from 0 to {samples - 1}; got {strange[0]} for node {node} in {file.name}. "
            "Use the data set that the file was made for."
        )
    return rows.astype(np.int64)


def _read_npz(file: Path) -> list[np.ndarray]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            indices, offsets = stored["indices"], stored["offsets"]
    except Exception as error:  # a torn archive fails in a dozen ways, from BadZipFile to zlib's own error
        raise _malformed(file, "hold the arrays 'indices' and 'offsets'", f"{type(error).__name__}: {error}") from error
    if not (_is_integer_list(indices) and _is_integer_list(offsets)):
        raise _malformed(
            file,
            "hold 'indices' and 'offsets' as lists of integers",
            f"{indices.dtype} of shape {indices.shape} and {offsets.dtype} of shape {offsets.shape}",
        )
    cuts = offsets.astype(np.int64)
    if len(cuts) < 2 or cuts[0] != 0 or cuts[-1] != len(indices) or np.any(np.diff(cuts) < 0):
        raise _malformed(file, f"have 'offsets' that rise from 0 to {len(indices)}, the number of indices", "others")
    return np.split(indices, cuts[1:-1])


def _read_json(file: Path) -> list[np.ndarray]:
    rule = "hold one list of row numbers a node"
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise _malformed(file, rule, f"{type(error).__name__}: {error}") from error
    if not isinstance(listed, list) or not all(isinstance(rows, list) for rows in listed):
        raise _malformed(file, rule, type(listed).__name__)
    for node, rows in enumerate(listed):
        # A bool is an int to Python, and a number beyond int64 is one to JSON: neither is a row number.
        strange = [row for row in rows if type(row) is not int or abs(row) >= 2**63]
        if strange:
            raise _malformed(file, rule, f"{strange[0]!r} for node {node}")
    return [np.array(rows, dtype=np.int64) for rows in listed]


def _is_integer_list(array: np.ndarray) -> bool:
    return array.ndim == 1 and array.dtype.kind in "iu"


def _malformed(file: Path, rule: str, got: str) -> SettingError:
    return SettingError(f"`path` must {rule}; got {got} in {file.name}. Write the file anew.")


_READERS = {".npz": _read_npz, ".json": _read_json}
