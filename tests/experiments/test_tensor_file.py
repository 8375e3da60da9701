"""Tensors and a header come back as they were; whatever byte is changed, the file is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import safe_open, save_file
from torch import Tensor

import fedtangent
from fedtangent.experiments import tensor_file

TENSORS = {
    "float": torch.tensor([[1.5, -0.0], [torch.inf, 3e-40]]),
    "double": torch.tensor(0.1, dtype=torch.float64),
    "half": torch.tensor([0.1], dtype=torch.bfloat16),
    "count": torch.tensor(2**60),
    "mask": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
    "turned": torch.arange(6).reshape(2, 3).T,
    "complex": torch.tensor([1 + 2j]),
}
HEADER = {"text": "ein Übermaß", "list": [1, None, True, 0.1], "nan": float("nan")}


def saved(folder: Path, tensors: dict[str, Tensor] = TENSORS) -> Path:
    tensor_file.save(folder / "t.safetensors", HEADER, tensors)
    return folder / "t.safetensors"


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    header, tensors = tensor_file.read(saved(tmp_path), "out", "Do.")
    assert json.dumps(header) == json.dumps(HEADER)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(tensors[name], tensor)


def test_tensors_of_one_memory_are_stored_each(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    shared = {"a": whole, "b": whole, "c": whole[2:], "d": whole.view(2, 3), "e": whole.detach()}
    _, tensors = tensor_file.read(saved(tmp_path, shared), "out", "Do.")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in shared.items())


def test_a_file_that_is_read_may_be_written_anew(tmp_path: Path) -> None:
    path = saved(tmp_path)
    _, tensors = tensor_file.read(path, "out", "Do.")
    path.write_bytes(b"0" * path.stat().st_size)  # no tensor is a window on the file
    assert torch.equal(tensors["float"], TENSORS["float"])


def test_whatever_byte_is_changed_it_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)})
    content = path.read_bytes()
    for place in range(len(content)):
        changed = content[place] ^ 1 << place * 5 % 8
        path.write_bytes(content[:place] + bytes([changed]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"^`out` must hold a .*t.safetensors"):
            tensor_file.read(path, "out", "Do.")


@pytest.mark.parametrize("length", [0, 7, 8, 100, -1])
def test_a_torn_file(length: int, tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"^`out` must hold a whole t.safetensors; got a damaged one in .*\)\. Do\.$"):
        tensor_file.read(path, "out", "Do.")


def test_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^`out` must hold a t.safetensors; got none in {tmp_path}. Do\.$"):
        tensor_file.read(tmp_path / "t.safetensors", "out", "Do.")


@pytest.mark.parametrize(
    ("metadata", "version"),
    [
        ({"fedtangent": json.dumps({"model": "mlp", "file": False, "options": {}})}, "0.1.0"),
        ({"checkpoint": json.dumps({"meta": {}, "state": {}, "sum": 3})}, "0.1.0"),
        ({"fedtangent": json.dumps({"format": 7, "version": "3.2.1"})}, "3.2.1"),
    ],
)
def test_a_file_of_another_version_is_refused_by_its_name(metadata: Any, version: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "t.safetensors", metadata)
    message = (
        rf"^`out` must hold a t.safetensors that fedtangent {fedtangent.__version__} can read; got one of '{version}'"
    )
    with pytest.raises(ValueError, match=message):
        tensor_file.read(tmp_path / "t.safetensors", "out", "Do.")


@pytest.mark.parametrize(
    "text", ["", "3", "[]", '"a"', "{", "[" * 100_000, '{"format": 2}', '{"format": 2, "header": 3}']
)
def test_a_header_that_is_none(text: str, tmp_path: Path) -> None:
    for metadata in ({"fedtangent": text}, {"other": text}, None):
        save_file({"a": torch.zeros(3)}, tmp_path / "t.safetensors", metadata)
        with pytest.raises(ValueError, match=r"^`out` must hold a whole t.safetensors; got a damaged one in "):
            tensor_file.read(tmp_path / "t.safetensors", "out", "Do.")


def test_it_is_a_plain_safetensors_file_of_one_bytes_a_content(tmp_path: Path) -> None:
    first = saved(tmp_path).read_bytes()
    assert saved(tmp_path).read_bytes() == first
    with safe_open(tmp_path / "t.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("turned"), TENSORS["turned"])


def test_a_header_alone_needs_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    tensor_file.save(path, {"round": 3}, {"w": torch.arange(5.0)})
    held = path.read_bytes()
    assert tensor_file.read(path, "out", "Mend it.", whole=False) == ({"round": 3}, {})
    path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))  # of the last tensor
    assert tensor_file.read(path, "out", "Mend it.", whole=False)[0] == {"round": 3}
    with pytest.raises(ValueError, match=r"^`out` must hold a whole file.safetensors; got a damaged one .*digest"):
        tensor_file.read(path, "out", "Mend it.")
    path.write_bytes(held[:-1])
    with pytest.raises(ValueError, match=r"^`out` must hold a whole file.safetensors; got a damaged one"):
        tensor_file.read(path, "out", "Mend it.", whole=False)
