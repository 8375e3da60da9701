"""Files of a data set: where they may lie, and the arrays of an .npz archive."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedtangent import home
from fedtangent.errors import SettingError


def existing(data_dir: str | Path | None, names: Sequence[str]) -> Path:
    """The first of these files or folders that exists in `data_dir`.

    Raises:
        ValueError: No folder given, or one with none of them.
    """
    wanted = f"hold {' or '.join(names)}"
    if data_dir is None:
        raise SettingError(f"`data_dir` must be given and {wanted}; got none. Name the folder with --data-dir.")
    folder = home.path(data_dir)
    for name in names:
        if (folder / name).exists():
            return folder / name
    what = "without it" if folder.is_dir() else "which is no folder"
    raise SettingError(f"`data_dir` must {wanted}; got {str(data_dir)!r}, {what}. Name the folder with --data-dir.")


def stored(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an .npz file: those needed, and of the optional ones those that it has; no pickled object is read.

    Raises:
        ValueError: A damaged file, object arrays, or a needed array that is missing.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("no zip archive")  # of which numpy says that it might be pickled
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [array for array in needed if array not in file]
            arrays = {} if missing else {array: file[array] for array in (*needed, *optional) if array in file}
    except (ValueError, OSError, EOFError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise SettingError(
            f"`data_dir` must be a whole .npz file of plain numbers; got {str(path)!r} ({error}). "
            "Write it with numpy.savez, without object arrays."
        ) from error
    if missing:
        raise SettingError(
            f"`data_dir` must be a .npz file with {', '.join(needed)}; got {str(path)!r} without {', '.join(missing)}. "
            "Save it with these names."
        )
    return arrays
