"""Tensor file: tensors and a JSON header in one safetensors file, all of it under one digest.

Nothing is pickled, and nothing that is read is run or imported: a header holds numbers, texts, lists and mappings.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedtangent import __version__
from fedtangent.errors import SettingError
from fedtangent.experiments import atomic

FORMAT = 2  # 1, without a number, was that of 0.1.0
KEY = "fedtangent"

Tensors = dict[str, Tensor]


def save(path: Path, header: dict[str, Any], tensors: Tensors) -> None:
    """Writes the file whole, or leaves the one before.

    Raises:
        OSError: It cannot be written.
    """
    written: Tensors = {}
    memory: set[int] = set()  # safetensors wants no two tensors in the same
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        start = tensor.untyped_storage().data_ptr()
        written[name] = tensor.clone() if start in memory else tensor
        memory.add(start)
    text = json.dumps(header)
    digest = _digest(__version__, text, written)
    outer = {"format": FORMAT, "version": __version__, "digest": digest, "header": text}
    atomic.replaced(path, lambda draft: save_file(written, draft, {KEY: json.dumps(outer)}))


def read(path: Path, argument: str, remedy: str, *, whole: bool = True) -> tuple[dict[str, Any], Tensors]:
    """Header and tensors, each in memory of its own.

    Args:
        path: The file.
        argument: What named its folder, for the message.
        remedy: What to do where the file is damaged.
        whole: False for the header alone, whose digest is then not looked at.

    Raises:
        ValueError: It is damaged, or of another version's format.
    """
    if not path.is_file():
        raise SettingError(f"`{argument}` must hold a {path.name}; got none in {path.parent}. {remedy}")
    tensors: Tensors = {}
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            outer = json.loads(found[KEY] if KEY in found else found["checkpoint"])  # as 0.1.0 called it
            if other := outer.get("format", 1) != FORMAT:
                version = str(outer.get("version", "0.1.0"))[:20]
            else:
                tensors = {name: file.get_tensor(name).clone() for name in (file.keys() if whole else ())}
                if whole and _digest(outer["version"], outer["header"], tensors) != outer["digest"]:
                    raise ValueError("its digest is another")
                header = dict(json.loads(outer["header"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SettingError(
            f"`{argument}` must hold a whole {path.name}; got a damaged one in {path.parent} ("
            f"{reason(error)}). {remedy}"
        ) from error
    if other:
        raise SettingError(
            f"`{argument}` must hold a {path.name} that fedtangent {__version__} can read; got one of {version!r} in "
            f"{path.parent}. Use that version for it, or run anew."
        )
    return header, tensors


def reason(error: Exception) -> str:
    """The kind of an error and what it says, in one line that is not long."""
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}")[:200]


def printable(text: str) -> str:
    """The text, with what a terminal might act on escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _digest(version: str, text: str, tensors: Tensors) -> str:
    total = hashlib.sha256(f"{version}\0{text}\0".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
