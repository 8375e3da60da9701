"""A kernel on disk equals the one in memory, from any loader, within the budget, and to the same bits after a kill."""

import importlib
import json
import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fedtangent.tangents import kernel, on_disk
from tests.measured import apart, measured
from tests.often import often
from tests.tangents.networks import INPUTS, OUTPUTS, inputs, jacobian

SHAPES = {"full": (OUTPUTS, OUTPUTS), "trace": (), "diagonal": (OUTPUTS,)}


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.Tanh(), nn.Linear(6, OUTPUTS)).double()


def loader(x: Tensor, batch: int = 3, **more: Any) -> Any:
    return DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=batch, **more)


@pytest.fixture(autouse=True)
def blocks_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of up to four samples, which divide neither the samples nor the batches."""
    monkeypatch.setattr(on_disk, "block_size", lambda *_: 4)


@pytest.mark.parametrize("kind", SHAPES)
def test_streamed_kernels_are_j_j_transposed(kind: Any, tmp_path: Path) -> None:
    model, x1, x2 = network(), inputs(11), inputs(6)
    j1, j2 = jacobian(model, x1), jacobian(model, x2)
    for name, other, its in (("own", None, j1), ("cross", loader(x2), j2)):
        found = kernel(model, loader(x1), other, kind=kind, out=tmp_path / name)
        literal = torch.einsum("ncp,mdp->nmcd", j1, its)
        diagonal = literal.diagonal(dim1=2, dim2=3)
        literal = {"full": literal, "trace": diagonal.mean(2), "diagonal": diagonal}[kind]
        assert found.shape == literal.shape == (11, len(its), *SHAPES[kind])
        assert (found - literal).norm() <= 1e-12 * literal.norm()
        assert np.array_equal(np.load(tmp_path / name), found.numpy())
    own = torch.from_numpy(np.load(tmp_path / "own"))
    assert torch.equal(own, own.permute(1, 0, 3, 2) if kind == "full" else own.transpose(0, 1))


def test_tensors_batches_and_arguments_give_the_same(tmp_path: Path) -> None:
    model, x = network(), inputs(9)
    bits = kernel(model, x, out=tmp_path / "tensor")
    for name, its in {
        "loader": loader(x),
        "large batches": loader(x, 9),
        "batches": list(x.split(2)),
        "numpy": x.numpy(),
        "workers": loader(x, num_workers=1),
    }.items():
        assert torch.equal(kernel(model, its, out=str(tmp_path / name)), bits)

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.its = model

        def forward(self, left: Tensor, scale: Tensor) -> Tensor:
            return self.its(left) * scale[:, None]

    scale = torch.rand(9, dtype=torch.float64)
    whole = kernel(Several(), (x, scale))
    batches = [{"left": x[:5], "scale": scale[:5]}, {"left": x[5:], "scale": scale[5:]}]
    assert torch.allclose(kernel(Several(), batches, out=tmp_path / "several"), whole, rtol=1e-12, atol=0)


def test_a_memmap_is_filled_and_a_finished_one_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = network(), inputs(9)
    array = np.memmap(tmp_path / "raw", np.float64, "w+", shape=(9, 9, OUTPUTS, OUTPUTS))
    assert torch.equal(kernel(model, loader(x), out=array), kernel(model, loader(x), out=tmp_path / "other"))
    assert array.any(axis=(2, 3)).all()
    monkeypatch.setattr(
        importlib.import_module("fedtangent.tangents.kernel"), "_filled", lambda *_: pytest.fail("a tile was computed")
    )
    assert np.array_equal(kernel(model, loader(x), out=tmp_path / "other").numpy(), array)


def test_parts_of_one_memmap_are_filled_each(tmp_path: Path) -> None:
    model, x, shape = network(), inputs(9), (9, 9, OUTPUTS, OUTPUTS)
    bits = kernel(model, x, out=tmp_path / "other")
    whole = np.memmap(tmp_path / "raw", np.float64, "w+", shape=(18, *shape[1:]))
    second = np.memmap(tmp_path / "raw", np.float64, "r+", offset=whole[:9].nbytes, shape=shape)
    kernel(model, x, out=whole[:9])
    assert torch.equal(kernel(model, x, out=second), bits)
    assert np.array_equal(whole, np.concatenate([bits, bits]))
    assert len(list(tmp_path.glob("raw*progress"))) == 2
    whole[9:] = 0
    assert torch.equal(kernel(model, x, out=whole[9:]), bits)


def test_a_memmap_that_was_emptied_is_filled_anew(tmp_path: Path) -> None:
    model, x, shape = network(), inputs(9), (9, 9, OUTPUTS, OUTPUTS)
    bits = kernel(model, x, out=tmp_path / "k.npy").clone()
    for _ in range(2):
        array = np.lib.format.open_memmap(tmp_path / "k.npy", "w+", np.float64, shape)
        assert torch.equal(kernel(model, x, out=array), bits)
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["k.npy", "k.npy.progress"]


def test_what_is_left_by_a_failure_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x1, x2 = network(), inputs(11), inputs(6)
    for name, other in (("own", None), ("cross", x2)):
        whole = kernel(model, loader(x1), other, out=tmp_path / f"{name} whole")
        put, calls = on_disk._put, 0

        def failing(*args: Any, put: Any = put) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
            put(*args)

        monkeypatch.setattr(on_disk, "_put", failing)
        with pytest.raises(KeyboardInterrupt):
            kernel(model, loader(x1), other, out=tmp_path / name)
        monkeypatch.setattr(on_disk, "_put", put)
        done = json.loads((tmp_path / f"{name}.progress").read_text())["done"]
        assert done == (2 if other is None else 3)  # tiles off the diagonal are put twice
        assert torch.equal(kernel(model, loader(x1), other, out=tmp_path / name), whole)


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys, torch
        from fedtangent.tangents import kernel, on_disk
        on_disk.block_size = lambda *_: 4
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        x = torch.randn(23, 5)
        left, put = int(sys.argv[2]), on_disk._put
        def counted(array, at, tile):
            global left
            left -= 1
            if left == 0:
                array[at][:1] = 7.0  # half of a tile
                os.kill(os.getpid(), signal.SIGKILL)
            put(array, at, tile)
        on_disk._put = counted
        kernel(model, list(x.split(3)), out=sys.argv[1])
        """
    )

    def run(name: str, left: int) -> int:
        return apart(script, str(tmp_path / name), str(left))[0]

    assert run("whole", 0) == 0
    assert [run("killed", left) for left in (6, 9, 0)] == [signal.SIGKILL, signal.SIGKILL, 0]
    assert np.array_equal(np.load(tmp_path / "whole"), np.load(tmp_path / "killed"))


MEMORY = """
import re, sys, threading, torch
from fedtangent.tangents import kernel
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(2000, 60), torch.nn.ReLU(), torch.nn.Linear(60, 4))
class Rows:
    def __init__(self, batches):
        self.batches = batches
    def __iter__(self):
        for i in range(self.batches):
            yield torch.rand(50, 2000, generator=torch.Generator().manual_seed(i))
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
peak, over = 0, threading.Event()
def watch():
    global peak
    while not over.wait(0.001):
        peak = max(peak, anonymous())
kernel(model, Rows(3), kind="trace", out=sys.argv[1] + "/warm", memory_bytes=2**22)
before = anonymous()
thread = threading.Thread(target=watch)
thread.start()
kernel(model, Rows(24), kind="trace", out=sys.argv[1] + "/file", memory_bytes=2**22)
over.set()
thread.join()
print((peak - before) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux' /proc")
def test_memory_stays_within_the_budget(tmp_path: Path) -> None:
    """1,200 samples of 9.6 MB, a kernel of 5.8 MB, by 4 MiB beside a batch of 0.4 MB."""
    assert measured(MEMORY, str(tmp_path)) <= 4 + 0.5


def generator() -> Iterator[Tensor]:
    yield inputs()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (generator(), ValueError, "`x1` must start anew at every pass; got generator, which ends after one. Give a"),
        ([], ValueError, "`x1` must hold batches of samples; got none. "),
        ("rows", TypeError, "`x1` must hold batches of samples; got str. "),
        (3.5, TypeError, "`x1` must be a tensor; got float. "),
        ([inputs(), inputs()[:, :3]], ValueError, "`x1` must hold samples of one shape; got (7,) and (3,). "),
        ([inputs() / 0], ValueError, "`x1` must be finite; got NaN or infinity. "),
        (["rows"], TypeError, "`x1` must be a tensor; got str. "),
    ],
)
def test_streams_that_cannot_be_read(x: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error) as found:
        kernel(network(), x, out=tmp_path / "file")
    assert message in str(found.value)
    assert not list(tmp_path.iterdir())


def test_samples_that_change_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"must give the same samples at every pass; got others from sample 0 on\."):
        kernel(network(), loader(inputs(11), shuffle=True), out=tmp_path / "shuffled")

    class Shrinking:
        passes = 0

        def __iter__(self) -> Iterator[Tensor]:
            self.passes += 1
            yield from inputs(11).split(4)[: 3 - self.passes // 3]

    with pytest.raises(ValueError, match="got others from sample 8 on"):
        kernel(network(), Shrinking(), out=tmp_path / "shrinking")
    assert not list(tmp_path.iterdir())  # what can never be finished
    whole = np.lib.format.open_memmap(tmp_path / "mine", "w+", np.float64, (11, 11, OUTPUTS, OUTPUTS))
    with pytest.raises(ValueError, match="got others from sample"):
        kernel(network(), loader(inputs(11), shuffle=True), out=whole)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


class Scaled(nn.Module):
    """A number that is neither a weight nor told by the model's text."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = network(), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)  # type: ignore[no-any-return]


def test_a_kernel_of_other_outputs_is_not_given_back(tmp_path: Path) -> None:
    model, x = Scaled(), inputs(9)
    found = kernel(model, x, out=tmp_path / "file", outputs=lambda f: f[:, :2]).clone()
    for other in (lambda f: f[:, 1:], lambda f: 2 * f[:, :2]):
        with pytest.raises(ValueError, match="; got one of another outputs of some samples"):
            kernel(model, x, out=tmp_path / "file", outputs=other)
    model.scale = 3.0
    with pytest.raises(ValueError, match="; got one of another outputs of some samples"):
        kernel(model, x, out=tmp_path / "file", outputs=lambda f: f[:, :2])
    model.scale = 1.0
    assert torch.equal(kernel(model, x, out=tmp_path / "file", outputs=lambda f: f[:, :2]), found)


def test_files_that_hold_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(), inputs(9)

    def refused(message: str, out: Any = tmp_path / "file", x: Any = x, **more: Any) -> None:
        with pytest.raises((ValueError, TypeError)) as found:
            kernel(model, x, out=out, **more)
        assert message in str(found.value) and str(found.value).startswith("`out` must ")

    refused("be a path or a memmap; got int. ", 7)
    refused("be a file in a folder that exists; got ", tmp_path / "none" / "file")
    refused("be a file in a folder that exists; got ", tmp_path)
    refused("be a file in a folder that exists; got ", f"{tmp_path}/a\0b")
    refused("be a file that can be written; got File name too long at ", tmp_path / ("a" * 300))
    refused("be a file that can be written; got File name too long at ", tmp_path / ("a" * 250))
    (tmp_path / "foreign").write_text("x")
    refused("which has no record. Name another", tmp_path / "foreign")
    refused(
        "be (9, 9, 3, 3) of float64, open for writing; got (2, 2) of float64, opened as 'w+'. ",
        np.memmap(tmp_path / "a", np.float64, "w+", shape=(2, 2)),
    )
    np.memmap(tmp_path / "a", np.float64, "w+", shape=(9, 9, 3, 3)).flush()
    refused(", opened as 'c'. ", np.memmap(tmp_path / "a", np.float64, "c", shape=(9, 9, 3, 3)))
    kernel(model, x, out=tmp_path / "file")
    refused("; got one of another samples. Finish that one, or delete ", x=x + 1)
    refused("; got one of another memory_bytes. ", memory_bytes=2**25)
    refused("; got one of another model and weights. ", w={n: p.detach() + 1 for n, p in model.named_parameters()})
    (tmp_path / "file").write_bytes(b"short")
    refused("be an array of numpy's format; got ")
    (tmp_path / "file.progress").write_text("{")
    refused("have a record that can be read; got ")

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    refused("lie where there is room for 5832 bytes; got No space left on device at ", tmp_path / "large")
    assert not (tmp_path / "large").exists() and not (tmp_path / "large.new").exists()


def test_too_little_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    least = 1
    for what in ("one sample", "a tile"):
        with pytest.raises(ValueError, match=rf"^`memory_bytes` must be at least \d+ .*{what} at a time; got") as error:
            kernel(network(), inputs(), out=tmp_path / "file", memory_bytes=least)
        least = int(str(error.value).split("at least ")[1].split()[0])
    kernel(network(), inputs(), out=tmp_path / "file", memory_bytes=least)


class Experts(nn.Module):
    """Rows are sent to one of two layers; or all to one, and some to the other too."""

    def __init__(self, added: bool = False) -> None:
        super().__init__()
        self.left, self.right, self.added = nn.Linear(INPUTS, OUTPUTS), nn.Linear(INPUTS, OUTPUTS), added

    def forward(self, x: Tensor) -> Tensor:
        f = self.left(x) if self.added else x.new_zeros(len(x), OUTPUTS)
        for layer, rows in ((self.left, x[:, 0] < 0), (self.right, x[:, 0] >= 0))[self.added :]:
            if rows.any():
                f = f.index_put((rows.nonzero()[:, 0],), torch.tanh(layer(x[rows])), accumulate=self.added)
        return f


def by_rows(model: nn.Module, x: Tensor) -> Tensor:
    """J (n, C, P), with zeros where a row does not use a parameter."""

    def rows(row: Tensor) -> Tensor:
        f = model(row[None])[0]
        grads = [torch.autograd.grad(one, list(model.parameters()), retain_graph=True, allow_unused=True) for one in f]
        zeros = [torch.zeros_like(p) for p in model.parameters()]
        return torch.stack(
            [torch.cat([(z if g is None else g).flatten() for g, z in zip(own, zeros, strict=True)]) for own in grads]
        )

    return torch.stack([rows(row) for row in x])


@pytest.mark.few(2)
@pytest.mark.parametrize("names", [(), ("right.weight", "right.bias")])
@pytest.mark.parametrize("added", often([False, True], [False]))
@pytest.mark.parametrize("rare", [5, 1])
def test_samples_that_use_other_parameters(
    rare: int, added: bool, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Than the first ones; and one among many that nothing was found on; by some of the parameters too."""
    if rare == 1:
        monkeypatch.setattr(on_disk, "block_size", lambda *_: 32)
    torch.manual_seed(1)
    model, x = Experts(added).double(), inputs(14 if rare == 5 else 120)
    x[:, 0] = -x[:, 0].abs()
    x[9 : 9 + rare, 0] *= -1
    w = {name: part for name, part in model.named_parameters() if name in names or not names}
    columns = torch.cat([torch.full((part.numel(),), name in w) for name, part in model.named_parameters()])
    j = by_rows(model, x)[..., columns]
    literal = torch.einsum("ncp,mcp->nm", j, j) / OUTPUTS
    for found in (
        kernel(model, x, kind="trace", w=w),
        kernel(model, list(x.split(30)), kind="trace", w=w, out=tmp_path / "file"),
    ):
        assert (found - literal).norm() <= 1e-10 * literal.norm()
