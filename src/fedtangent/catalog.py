"""The files of a plural folder, by name: the folder is the registry, and a user's own file works the same way."""

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from fedtangent import home
from fedtangent.errors import SettingError

FOLDERS = (
    "methods",
    "models",
    "datasets",
    "augmentations",
    "partitions",
    "topologies",
    "channels",
    "faults",
    "attacks",
    "rules",
    "metrics",
    "engines",
    "trackers",
    "recipes",
)
_READ = {  # what a data set of one's own may be called, and which data set reads it
    ("csv", "tsv", "parquet", "pandas", "dataframe", "tabular", "tables", "excel", "arrow"): (
        "--dataset table --data-dir FILE --label COLUMN"
    ),
    ("hf", "hugging_face", "datasets", "load_dataset", "load_from_disk"): (
        "--dataset huggingface --data-dir FOLDER --label COLUMN"
    ),
    ("folder", "imagefolder", "images", "image", "png", "jpg", "jpeg", "imagenet", "tiny_imagenet", "tinyimagenet"): (
        "--dataset image_folder --data-dir FOLDER"
    ),
    ("npz", "npy", "numpy", "array", "arrays"): "--dataset npz --data-dir FILE.npz",
    ("json", "emnist", "shakespeare", "synthetic"): "--dataset leaf --data-dir FOLDER, or femnist",
    ("timeseries", "time_series", "sequence", "forecasting"): (
        "--dataset series --data-dir FILE --label COLUMN --window TIMES"
    ),
    ("txt", "texts", "tokens", "tokenizer", "sentences", "nlp"): (
        "--dataset text --data-dir FILE --label COLUMN --tokenizer FILE"
    ),
    ("torch", "pytorch", "torchvision", "dataloader"): "fedtangent.datasets.torch_dataset, from Python",
}
_USER = "fedtangent_user_"  # what the names of modules of users' own files begin with


def names(folder: str) -> list[str]:
    """The names that a folder offers, sorted: its public files that define a function of their own name."""
    if folder not in FOLDERS:
        raise SettingError(f"`folder` must be one of {', '.join(FOLDERS)}; got {folder!r}.")
    return [*_names(folder)]


@cache
def _names(folder: str) -> list[str]:
    """Read once: the package does not change while it runs."""
    files = [path for path in (Path(__file__).parent / folder).glob("*.py") if not path.stem.startswith("_")]
    return sorted(path.stem for path in files if f"\ndef {path.stem}(" in path.read_text(encoding="utf-8"))


def load(folder: str, name: str, argument: str | None = None) -> Callable[..., Any]:
    """The function that file `name` of a folder defines under its own name; a path ending in .py is a user's own file.

    Args:
        folder: One of FOLDERS.
        name: Of the file, or its path.
        argument: What messages call it; none is one of the folder's.

    Raises:
        ValueError: No such name or file, or the file does not define a function of its own name.
    """
    if name.endswith(".py"):
        return _defined(_module_at(home.path(name), argument or _one(folder)), function_of(Path(name)), name)
    return _defined(importlib.import_module(f"fedtangent.{folder}.{_known(folder, name, argument)}"), name, name)


def function_of(path: Path) -> str:
    """The name of the function that a file defines: the file's own, with _ for what no name may hold."""
    return re.sub(r"\W", "_", path.stem)


def summary(folder: str, name: str) -> str:
    """The first sentence of the file's docstring, without the name that it opens with; the file is only read."""
    text = ast.get_docstring(ast.parse(path(folder, name).read_bytes())) or ""
    return text.partition("\n")[0].split(": ", 1)[-1]


def path(folder: str, name: str) -> Path:
    """The file of a name, or of a path that ends in .py.

    Raises:
        ValueError: No such name or file.
    """
    if name.endswith(".py"):
        return _existing(home.path(name), _one(folder))
    return Path(__file__).parent / folder / f"{_known(folder, name)}.py"


def _known(folder: str, name: str, argument: str | None = None) -> str:
    known = names(folder)
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]!r}?" if near else "Or give the path of a file of your own."
        if folder == "datasets" and (meant := _meant(name)) is not None:
            hint = f"Did you mean {meant}?"
        raise SettingError(f"`{argument or _one(folder)}` must be one of {', '.join(known)}; got {name!r}. {hint}")
    return name


def _meant(name: str) -> str | None:
    """The data set that reads what a name speaks of, such as csv or a file's name, as one types it."""
    kind = (Path(name).suffix.lstrip(".") or name).lower().replace("-", "_").replace(" ", "_")
    kind = Path(name).suffixes[-2].lstrip(".") if kind in ("gz", "bz2") and len(Path(name).suffixes) > 1 else kind
    if name and Path(name).is_dir():
        kind = "folder"
    return next((asked for words, asked in _READ.items() if kind in words), None)


def _one(folder: str) -> str:
    """What one file of the folder is: the name of the argument."""
    return {"topologies": "topology", "augmentations": "augment"}.get(folder, folder.removesuffix("s"))


def _existing(path: Path, argument: str) -> Path:
    if not path.is_file():
        raise SettingError(f"`{argument}` must name a file that exists; got {str(path)!r}. Check the path.")
    return path


def _module_at(path: Path, argument: str) -> Any:
    """The module that a user's file defines: run once as it stands, and anew where it was edited since."""
    path, source = _existing(path, argument).resolve(), path.read_bytes()
    key = hashlib.sha256(str(path).encode(errors="surrogateescape") + b"\0" + source).hexdigest()
    name = f"{_USER}{path.stem}_{key[:16]}"  # two files of one name are two modules
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # not a .pyc, which may be of the file before
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        line = None if isinstance(error, SyntaxError) else _line(error, {str(path)})
        raise SettingError(
            f"`{path}` must be a Python file that imports; got {_failure(error, line)}. Mend the file."
        ) from error
    return module


def place(error: BaseException) -> tuple[str, int] | None:
    """The last line of a user's own file that an error came through, with the file's path; None where it did not."""
    files = {str(module.__file__) for name, module in [*sys.modules.items()] if name.startswith(_USER)}
    return _line(error, files)


def failed(error: BaseException) -> str | None:
    """The sentence about an error that came through a user's own file; None where it did not."""
    if (found := place(error)) is None:
        return None
    return (
        f"`{found[0]}` must run; got {_failure(error, found)}. Mend the file; fedtangent.run from Python shows the "
        "whole traceback."
    )


def _failure(error: BaseException, place: tuple[str, int] | None) -> str:
    """The kind of an error, its line where `place` tells it, and what it says."""
    told = str(error).rstrip(".")
    kind = type(error).__name__ + ("" if place is None else f" at line {place[1]}")
    return f"{kind}: {told}" if told else kind


def _line(error: BaseException, files: set[str]) -> tuple[str, int] | None:
    frames = traceback.extract_tb(error.__traceback__)
    return next(((f.filename, f.lineno) for f in reversed(frames) if f.filename in files and f.lineno), None)


def _defined(module: Any, name: str, given: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        raise SettingError(
            f"`{given}` must define a function named {name!r}; got none. Name the function like its file."
        )
    return found  # type: ignore[no-any-return]
