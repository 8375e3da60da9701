"""MNIST-like sets: read from torchvision's layout, gzipped or not; fetched once when absent; whole or not at all."""

import gzip
import hashlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from fedtangent.datasets._idx_images import FILES
from fedtangent.datasets.fashion_mnist import fashion_mnist
from fedtangent.datasets.mnist import mnist
from tests.datasets.shared import NEEDS_SHARED, SHARED


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def contents(rows: int = 13) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = [rng.integers(0, 256, (n, 5, 4), dtype=np.uint8) for n in (rows, 6)]
    labels = [rng.integers(0, 10, n, dtype=np.uint8) for n in (rows, 6)]
    return dict(zip(FILES, (arrays[0], labels[0], arrays[1], labels[1]), strict=True))


def written(raw: Path, zipped: bool) -> dict[str, np.ndarray]:
    raw.mkdir(parents=True)
    for name, array in contents().items():
        data = idx(array)
        (raw / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return contents()


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_the_layout_and_writes_nothing(tmp_path: Path, zipped: bool) -> None:
    arrays = written(tmp_path / "MNIST" / "raw", zipped)
    before = sorted(tmp_path.rglob("*"))
    data = mnist(tmp_path)
    assert data.name == "mnist" and data.classes == 10 and data.x_train.shape == (13, 1, 5, 4)
    expected = (arrays[FILES[0]] / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(data.x_train[:, 0], torch.from_numpy(expected).float())
    assert data.y_test.tolist() == arrays[FILES[3]].tolist() and data.y_test.dtype == torch.int64
    assert sorted(tmp_path.rglob("*")) == before


def test_without_data_dir_the_users_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    written(tmp_path / "there" / "fedtangent" / "FashionMNIST" / "raw", zipped=True)
    assert fashion_mnist().x_test.shape == (6, 1, 5, 4)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    written(tmp_path / "home" / ".cache" / "fedtangent" / "FashionMNIST" / "raw", zipped=True)
    assert fashion_mnist().x_test.shape == (6, 1, 5, 4)


@pytest.mark.parametrize(
    ("spoil", "got"),
    [
        (lambda data: data[: len(data) // 2], "Compressed file ended"),
        (lambda data: b"<html>", "Not a gzipped file"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-3]), "257 bytes of the 260 announced"),
        (lambda data: gzip.compress(b"\0\0\x08"), "the header '000008'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, spoil: object, got: str) -> None:
    raw = tmp_path / "MNIST" / "raw"
    written(raw, zipped=True)
    torn = raw / f"{FILES[0]}.gz"
    torn.write_bytes(spoil(torn.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=rf"^`.*{FILES[0]}.gz` must be a whole idx file; got {got}.*Delete it"):
        mnist(tmp_path)


def test_labels_outside_the_ten_classes(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    written(raw, zipped=False)
    (raw / FILES[3]).write_bytes(idx(np.full(6, 11, np.uint8)))
    with pytest.raises(ValueError, match=r"^`y_test` must hold labels from 0 to 9; got 11"):
        mnist(tmp_path)


def test_absent_and_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from torchvision.datasets import FashionMNIST

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    message = (
        r"^`data_dir` must hold FashionMNIST/raw/ with the four idx files.*got '.*absent' without them.*--data-dir"
    )
    with pytest.raises(ValueError, match=message) as caught:
        fashion_mnist(tmp_path / "absent")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [] and socket.getdefaulttimeout() is None
    assert capfd.readouterr() == ("", "")


class Quiet(SimpleHTTPRequestHandler):
    """A file server that keeps no log."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The address of a small mirror and torchvision's list of its files with their md5."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, array in contents().items():
        data = gzip.compress(idx(array))
        (folder / f"{name}.gz").write_bytes(data)
        resources.append((f"{name}.gz", hashlib.md5(data, usedforsecurity=False).hexdigest()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", resources
    server.shutdown()
    server.server_close()
    thread.join()


def test_absent_is_downloaded_once_and_silently(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    mirror: tuple[str, list[tuple[str, str]]],
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(MNIST, "mirrors", [mirror[0]])
    monkeypatch.setattr(MNIST, "resources", mirror[1])
    first = mnist(tmp_path / "new")
    assert first.x_train.shape == (13, 1, 5, 4)
    assert {path.name for path in (tmp_path / "new/MNIST/raw").iterdir()} == {*FILES, *(f"{name}.gz" for name in FILES)}
    monkeypatch.setattr(MNIST, "mirrors", [])
    assert torch.equal(mnist(tmp_path / "new").x_train, first.x_train)
    assert capfd.readouterr() == ("", "")


@NEEDS_SHARED
@pytest.mark.parametrize("load", [fashion_mnist, mnist])
def test_the_real_sets(load: object) -> None:
    data = load(SHARED)  # type: ignore[operator]
    assert data.x_train.shape == (60_000, 1, 28, 28) and data.x_test.shape == (10_000, 1, 28, 28)
    assert data.y_train.shape == (60_000,) and data.y_test.shape == (10_000,) and data.classes == 10
    assert data.x_train.mean().item() == pytest.approx(0, abs=1e-3)
    assert data.x_train.std().item() == pytest.approx(1, abs=1e-3)


@NEEDS_SHARED
def test_fashion_mnist_is_in_the_canonical_order() -> None:
    data = fashion_mnist(SHARED)
    assert data.y_train[:8].tolist() == [9, 0, 0, 3, 0, 2, 7, 2]
    assert np.bincount(data.y_train).tolist() == [6000] * 10 and np.bincount(data.y_test).tolist() == [1000] * 10
