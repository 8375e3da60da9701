"""Pickles of numpy arrays, read without running what else a pickle may hold.

A pickle is a program: plain `pickle.load` calls whatever function it names. Here only the constructors of arrays can be
called, so that a file from a stranger can at worst be refused.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from fedtangent.errors import SettingError

ADVICE = "Unpack the archive anew."


def unpickled(path: Path) -> Any:
    """The dictionaries, lists, texts, numbers and numpy arrays of a pickle, Python 2's texts and bytes as latin-1.

    Raises:
        ValueError: A damaged file, or one that asks for anything but arrays.
    """
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
        raise SettingError(
            f"`{path}` must be a whole pickle of plain arrays; got {type(error).__name__}: {error}. {ADVICE}"
        ) from error


class _ArraysOnly(pickle.Unpickler):
    """Knows the constructors of arrays and no other function."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the constructors, whose module has had two names."""
        found = _CONSTRUCTORS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name}, which is no part of an array")
        return found


def _dtype(kind: str, *layout: Any) -> Any:
    """Old pickles say with integers whether to align and copy, which numpy no longer takes."""
    return np.dtype(kind)


def _latin1(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes as latin-1 text where the format has none."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_CONSTRUCTORS = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    ("numpy.core.numeric", "_frombuffer"): np._core.numeric._frombuffer,  # type: ignore[attr-defined]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,
}
