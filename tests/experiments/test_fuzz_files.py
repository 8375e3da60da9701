"""Two thousand damaged or forged files of each kind: each is read as it was or refused in a sentence; none is run."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fedtangent
from fedtangent.experiments import checkpoint, model_file, tensor_file
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import Setup, setup
from fedtangent.federation import Wire
from fedtangent.transports.memory import memory
from tests.experiments.tiny import data, timeless, tiny

pytestmark = pytest.mark.slow

EXAMPLES = settings(max_examples=2000, suppress_health_check=list(HealthCheck))
SENTENCE = re.compile(r"(`[\w.]+`|a run|a state) must .+; got .+\.( .+\.)?")
NAMES = ["os.system", "posix:system", "evil", "evil.py", "evil:State", "../evil.py", "__import__('os')", "State(w)"]

texts = st.sampled_from(NAMES) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.integers(-3, 9) | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))

_RAN: list[str] = []
_WATCHING = [False]


def _audit(event: str, given: tuple[Any, ...]) -> None:
    if _WATCHING[0] and (event in ("os.system", "os.exec", "subprocess.Popen", "os.posix_spawn", "ctypes.dlopen")):
        _RAN.append(event)
    if _WATCHING[0] and event == "exec" and "evil" in str(getattr(given[0], "co_filename", "")):
        _RAN.append(str(given[0]))


@pytest.fixture(scope="module")
def built() -> Setup:
    sys.addaudithook(_audit)  # which a process cannot take back, and every later test of it pays for
    return setup(tiny("fedavg", participation=1.0))


@pytest.fixture(scope="module")
def whole(built: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and beside it a file that must never be run."""
    folder = tmp_path_factory.mktemp("fuzz")
    run(built, folder / "run")
    (folder / "evil.py").write_text("raise SystemExit('run')\n")
    return folder / "run"


@contextmanager
def spoilt(whole: Path, name: str) -> Iterator[Path]:
    """A copy of the run, of whose file `name` something else is to be made; nothing that it says may be run."""
    folder = whole.parent / "copy"
    shutil.copytree(whole, folder)
    _RAN.clear()
    _WATCHING[0] = True
    try:
        yield folder / name
    except ValueError as error:
        assert SENTENCE.fullmatch(str(error)) and str(error).isprintable(), str(error)
    finally:
        _WATCHING[0] = False
        shutil.rmtree(folder)
    assert not _RAN


def bytewise(content: bytes, choose: random.Random) -> bytes:
    """The content with some bytes changed, left out, put in, or doubled."""
    changed = bytearray(content)
    for _ in range(choose.choice((1, 1, 1, 2, 5))):
        start = choose.randrange(len(changed) + 1)
        end = min(len(changed), start + choose.choice((1, 1, 2, 8, 100)))
        kind = choose.randrange(5)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << choose.randrange(8)
        elif kind == 1:
            del changed[start:end]
        elif kind == 2:
            changed[start:start] = bytes(choose.randrange(256) for _ in range(choose.randrange(1, 6)))
        elif kind == 3:
            changed[start:start] = changed[start:end]
        else:
            del changed[start:]
    return bytes(changed)


def replaced(tree: Any, choose: random.Random, value: Any) -> Any:
    """The tree with `value` somewhere in it, or with a part left out, or two of them changed for each other."""
    if not isinstance(tree, (dict, list)) or not tree or choose.random() < 0.15:
        return value
    changed: Any = tree.copy()
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key, kind = choose.choice(keys), choose.random()
    if kind < 0.1:
        del changed[key]
    elif kind < 0.2:
        other = choose.choice(keys)
        changed[key], changed[other] = changed[other], changed[key]
    elif kind < 0.25 and isinstance(tree, dict):
        changed[str(value)[:20]] = value
    elif kind < 0.25:
        changed.insert(key, value)
    else:
        changed[key] = replaced(tree[key], choose, value)
    return changed


def goes_on(built: Setup, whole: Path, folder: Path) -> None:
    """The run in the folder is gone on with, to its record."""
    found = run(built, folder, resume=True)
    lines = (whole / "rounds.jsonl").read_text().splitlines()
    assert timeless(found.rounds) == timeless([json.loads(line) for line in lines])
    assert (folder / model_file.NAME).read_bytes() == (whole / model_file.NAME).read_bytes()


@pytest.mark.parametrize("name", ["manifest.json", "rounds.jsonl", checkpoint.NAME])
@EXAMPLES
@given(choose=st.randoms(use_true_random=False), resume=st.booleans())
def test_damaged_bytes(name: str, built: Setup, whole: Path, choose: random.Random, resume: bool) -> None:
    with spoilt(whole, name) as path:
        path.write_bytes(bytewise(path.read_bytes(), choose))
        if resume:
            goes_on(built, whole, path.parent)
        else:
            run(built, path.parent)
            raise AssertionError("a folder with something in it was taken")


@EXAMPLES
@given(choose=st.randoms(use_true_random=False), value=values)
def test_a_forged_manifest(built: Setup, whole: Path, choose: random.Random, value: Any) -> None:
    with spoilt(whole, "manifest.json") as path:
        path.write_text(json.dumps(replaced(json.loads(path.read_text()), choose, value)))
        goes_on(built, whole, path.parent)


@EXAMPLES
@given(choose=st.randoms(use_true_random=False), value=values)
def test_forged_rounds(built: Setup, whole: Path, choose: random.Random, value: Any) -> None:
    with spoilt(whole, "rounds.jsonl") as path:
        lines = replaced([json.loads(line) for line in path.read_text().splitlines()], choose, value)
        text = "".join(json.dumps(line) + "\n" for line in lines) if isinstance(lines, list) else json.dumps(lines)
        path.write_text(text)
        goes_on(built, whole, path.parent)


@EXAMPLES
@given(choose=st.randoms(use_true_random=False), value=values, digest=st.booleans())
def test_a_forged_header_of_a_checkpoint(
    built: Setup, whole: Path, choose: random.Random, value: Any, digest: bool
) -> None:
    """Without a new digest the run refuses it; with one the state is at least of the method's types, or refused."""
    with spoilt(whole, checkpoint.NAME) as path:
        header, tensors = tensor_file.read(path, "out", "Do.")
        forged = replaced(header, choose, value)
        if not digest:
            save_with_old_digest(path, forged, tensors)
            if json.dumps(forged) != json.dumps(header):
                with pytest.raises(ValueError, match=r"its digest is another|got one of"):
                    run(built, path.parent, resume=True)
            return
        tensor_file.save(path, forged, tensors)
        fleet = built.fleet(0, Wire(memory()))
        first = built.method.init(fleet, fleet.each(list(built.data)))
        found = checkpoint.load(path.parent, fleet, first, [])
        assert found is not None and type(found.state) is type(first)


def save_with_old_digest(path: Path, header: Any, tensors: tensor_file.Tensors) -> None:
    """Writes the header under the digest of the file that is there."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, framework="pt") as file:
        outer = json.loads(file.metadata()[tensor_file.KEY])
    save_file(tensors, path, {tensor_file.KEY: json.dumps({**outer, "header": json.dumps(header)})})


@EXAMPLES
@given(choose=st.randoms(use_true_random=False))
def test_damaged_bytes_of_a_model(whole: Path, choose: random.Random) -> None:
    with spoilt(whole, model_file.NAME) as path:
        path.write_bytes(bytewise(path.read_bytes(), choose))
        assert torch.equal(fedtangent.load(path.parent)(data().x_test), fedtangent.load(whole)(data().x_test))


@EXAMPLES
@given(choose=st.randoms(use_true_random=False), value=values, outer=st.booleans())
def test_a_forged_header_of_a_model(whole: Path, choose: random.Random, value: Any, outer: bool) -> None:
    with spoilt(whole, model_file.NAME) as path:
        header, tensors = tensor_file.read(path, "folder", "Do.")
        save: Callable[[Path, Any, tensor_file.Tensors], None] = save_with_old_digest if outer else tensor_file.save
        save(path, replaced(header, choose, value), tensors)
        found = fedtangent.load(path.parent)
        assert found.state_dict().keys() == tensors.keys()


@EXAMPLES
@given(choose=st.randoms(use_true_random=False), value=st.sampled_from(NAMES) | st.integers(-1, 2**40) | values)
def test_a_forged_description_of_a_model(whole: Path, choose: random.Random, value: Any) -> None:
    """Whatever a header asks for, what is built is no larger than the file and holds its tensors."""
    with spoilt(whole, model_file.NAME) as path:
        header, tensors = tensor_file.read(path, "folder", "Do.")
        name = choose.choice(["model", "options", "inputs", "outputs", "dtype", "floats", "probe"])
        change = partial(replaced, header[name], choose)
        tensor_file.save(path, {**header, name: change(value)}, tensors)
        found = fedtangent.load(path.parent)
        assert all(torch.equal(tensor, tensors[key]) for key, tensor in found.state_dict().items())
