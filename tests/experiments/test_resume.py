"""A run that is gone on with is the same run: own methods too; and whatever would make another of it is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedtangent
from fedtangent.experiments import checkpoint, folder, model_file, record, tensor_file
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import setup
from tests.experiments.tiny import network, saved, settings, timeless, tiny
from tests.measured import apart

DFEDAVG = Path(fedtangent.__file__).parent / "methods" / "dfedavg.py"

# Another method's way of keeping its state, by what is put in the place of DFedAvg's.
STATES = {
    "of its own": [],
    "a dataclass": [
        ("from typing import Any", "from dataclasses import dataclass\nfrom typing import Any"),
        ("class State(NamedTuple)", "@dataclass(frozen=True)\nclass State"),
    ],
    "defined in the function": [
        ("class State(NamedTuple)", "class Other(NamedTuple)"),
        ("    check", "    class State(NamedTuple):\n        w_k: Any\n    check"),
    ],
    "wrapped around another": [
        (
            "class State(NamedTuple):",
            "class Inner(NamedTuple):\n    n: Any\n\n\nclass State(NamedTuple):\n    inner: Any",
        ),
        ("State(first_weights(fleet, task))", "State(Inner(Central(0)), first_weights(fleet, task))"),
        (
            'State(fleet.mix(z_k, "weights")), {}',
            'State(Inner(fleet.at_server(lambda n: n + 1, state.inner.n)), fleet.mix(z_k, "weights")), '
            "{'n': state.inner.n, 'type': str(type(state.inner) is Inner)}",
        ),
        ("Each, Fleet", "Central, Each, Fleet"),
    ],
}


def own(folder: Path, *changes: tuple[str, str], name: str = "mine") -> str:
    """The path of DFedAvg as a user's own method, some of its text replaced."""
    text = DFEDAVG.read_text().replace("def dfedavg", f"def {name}")
    if "    check" not in text:
        text = text.replace("    draw = ", "    check = None\n    draw = ", 1)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return str(folder / f"{name}.py")


def asked(method: str, **change: Any) -> Any:
    return tiny(method, **{"degree": 2, "epochs": 1, "batch": 4, "rounds": 3, **change})


def stopping(after: int) -> Any:
    def on_round(entry: dict[str, Any]) -> None:
        if entry["round"] == after:
            raise KeyboardInterrupt

    return on_round


def begun(experiment: Any, out: Path, after: int = 1) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(experiment, out, on_round=stopping(after))


def same(found: Result, expected: Result) -> None:
    assert timeless(found.rounds) == timeless(expected.rounds)
    assert all(torch.equal(w, expected.weights[name]) for name, w in found.weights.items())


@pytest.mark.few(3)
@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("after", [1, 3])
def test_an_own_method_with_a_state(kind: str, after: int, tmp_path: Path) -> None:
    path = own(tmp_path, *STATES[kind])
    whole = run(asked(path))
    begun(asked(path), tmp_path / "run", after)
    same(run(asked(path), tmp_path / "run", resume=True), whole)


def test_an_own_method_in_another_process(tmp_path: Path) -> None:
    """Killed in one, gone on with in another, which imports the file anew."""
    path = own(tmp_path, *STATES["wrapped around another"])
    code = """
import os, signal, sys, torch
from fedtangent.experiments.run import run
from tests.experiments.test_resume import asked
torch.set_num_threads(int(sys.argv[3]))
run(asked(sys.argv[1]), sys.argv[2], on_round=lambda entry: os.kill(os.getpid(), signal.SIGKILL))
"""
    died, told = apart(code, path, str(tmp_path / "run"), str(torch.get_num_threads()))
    assert died == signal.SIGKILL, told
    same(run(asked(path), tmp_path / "run", resume=True), run(asked(path)))


HOST = """
from typing import Any, NamedTuple

from fedtangent.catalog import load
from fedtangent.federation import Central


class State(NamedTuple):
    w: Any
    n: Any


def mine(task, *, host=None):
    inner = (host or load("methods", "fedavg"))(task)

    def init(fleet, data_k):
        return State(INIT, Central(0))

    def round(fleet, state, data_k, k):
        assert type(state) is State
        new, extra = inner.round(fleet, GIVEN, data_k, k)
        return State(KEPT, Central(state.n.value + 1)), {"n": state.n}

    def aggregate(fleet, state, data_k):
        return inner.aggregate(fleet, GIVEN, data_k)

    return inner._replace(init=init, round=round, aggregate=aggregate)
"""


def test_two_own_files_of_one_name_with_states_that_look_alike(tmp_path: Path) -> None:
    """One is the other's host; each asserts that the state is its own."""
    inside = {
        "INIT": "inner.init(fleet, data_k).w",
        "GIVEN": "type(inner.init(fleet, data_k))(state.w)",
        "KEPT": "new.w",
    }
    outside = {"INIT": "inner.init(fleet, data_k)", "GIVEN": "state.w", "KEPT": "new"}
    for place, texts in (("a", outside), ("b", inside)):
        (tmp_path / place).mkdir()
        text = HOST.replace(", *, host=None", "").replace("host or ", "") if place == "b" else HOST
        for old, new in texts.items():
            text = text.replace(old, new)
        (tmp_path / place / "mine.py").write_text(text)
    asked = settings(str(tmp_path / "a" / "mine.py"), host=str(tmp_path / "b" / "mine.py"), rounds=4)
    whole = fedtangent.run(**asked)
    assert [entry["n"] for entry in whole.rounds] == [0, 1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        fedtangent.run(**asked, out=tmp_path / "run", on_round=stopping(2))
    same(fedtangent.run(**asked, out=tmp_path / "run", resume=True), whole)
    (tmp_path / "b" / "mine.py").write_text((tmp_path / "b" / "mine.py").read_text() + "# edited")
    with pytest.raises(
        ValueError, match=r"^`host` must be as it was when the run in .* began; got mine.py with the diges"
    ):
        fedtangent.run(**asked, out=tmp_path / "run", resume=True)


def test_a_state_whose_type_is_not_found_again_stops_the_first_round(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        ('State(fleet.mix(z_k, "weights"))', 'late(fleet.mix(z_k, "weights"))'),
        ("    check = None", "    class Late(NamedTuple):\n        w_k: Any\n\n    late = Late"),
    )
    run(asked(path))
    with pytest.raises(
        TypeError, match=r"^a state must be of types that the method's first state or its file holds; got mi"
    ):
        run(asked(path), tmp_path / "run")


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"torn")])
def test_the_lost_model_of_a_finished_run_is_restored(spoil: Any, tmp_path: Path) -> None:
    whole = run(tiny(), tmp_path / "run")
    path = tmp_path / "run" / model_file.NAME
    content = path.read_bytes()
    spoil(path)
    same(run(tiny(), tmp_path / "run", resume=True), whole)
    assert path.read_bytes() == content


def test_resume_without_a_folder() -> None:
    with pytest.raises(ValueError, match=r"^`resume` must have a folder to go on from; got no `out`. Give --out.$"):
        run(tiny(), resume=True)
    with pytest.raises(ValueError, match=r"^`resume` must have a folder"):
        fedtangent.run(**settings(), resume=True)


def net(change: str) -> str:
    return (
        "from torch import nn\n\n\ndef net(inputs, outputs, rng):\n    model = nn.Sequential(nn.Linear(4, 3))\n"
        f"    for p in model.parameters():\n        p.data = p.data.fill_(0.1)\n    {change}\n    return model\n"
    )


FILES = {
    "method": lambda path: own(path, name="part"),
    "model": lambda path: net("pass").replace("net", "part"),
    "dataset": lambda path: "from tests.experiments.tiny import data\n\n\ndef part(data_dir):\n    return data()\n",
    "augment": lambda path: (
        "import torch\nfrom fedtangent.task import Augmentation\n\n\ndef part():\n"
        "    return Augmentation(lambda rng, rows: torch.zeros(rows), lambda x, numbers: x)\n"
    ),
    "partition": lambda path: (
        "from tests.experiments.tiny import partition\n\n\ndef part(x, y, nodes, rng):\n    return partition()\n"
    ),
    "topology": lambda path: (
        "from fedtangent.federation import Graph\n\n\ndef part(nodes, rng):\n"
        "    return Graph([(k, k + 1) for k in range(nodes - 1)], nodes)\n"
    ),
}


@pytest.mark.parametrize("part", FILES)
def test_an_own_file_that_was_edited_since(part: str, tmp_path: Path) -> None:
    path = tmp_path / "part.py"
    text = FILES[part](tmp_path)
    if part == "method":
        text = path.read_text()
    path.write_text(text)
    given = {name: value for name, value in settings("dfedavg").items() if name not in ("hidden", "method", part)}
    given |= {part: str(path)} if part != "method" else {}
    given |= {"nodes": 5} if part == "partition" else {}
    if part == "topology":
        given.pop("degree")
    method = str(path) if part == "method" else "dfedavg"
    first = fedtangent.run(method, **given, out=tmp_path / "run")
    same(fedtangent.run(method, **given, out=tmp_path / "run", resume=True), first)
    path.write_text(text + "# edited\n")
    message = (
        rf"^`{part}` must be as it was when the run in .*run began; got part.py with the digest \w{{16}} and not "
        r"'\w{16}'. Undo the edit, or run anew with another --out.$"
    )
    with pytest.raises(ValueError, match=message):
        fedtangent.run(method, **given, out=tmp_path / "run", resume=True)
    path.write_text(text)
    fedtangent.run(method, **given, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("part", "one", "other"),
    [
        ("loss", lambda f, y: nn.functional.cross_entropy(f, y), lambda f, y: 2 * nn.functional.cross_entropy(f, y)),
        ("model", lambda: network(), lambda: nn.Sequential(network()[0], nn.ReLU(), network()[2])),
    ],
)
def test_a_function_or_module_from_python_that_is_another(part: str, one: Any, other: Any, tmp_path: Path) -> None:
    made = (one, other) if part == "loss" else (one(), other())
    run(tiny(**{part: made[0]}), tmp_path / "run")
    with pytest.raises(ValueError, match=rf"^`{part}` must be as it was when the run in .*run began; got"):
        run(tiny(**{part: made[1]}), tmp_path / "run", resume=True)


def test_frozen_weights_and_buffers_are_part_of_a_run(tmp_path: Path) -> None:
    def frozen(value: float, buffer: float) -> nn.Module:
        model = network()
        model[0].requires_grad_(False)
        model[0].bias.data.fill_(value)
        model.register_buffer("b", torch.tensor(buffer), persistent=False)
        return model

    run(tiny(model=frozen(0.0, 0.0)), tmp_path / "run")
    for change in ((1.0, 0.0), (0.0, 1.0)):
        with pytest.raises(ValueError, match="whose data or first weights differ"):
            run(tiny(model=frozen(*change)), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("name", "module"), [("torch", torch), ("numpy", np), ("fedtangent", folder), ("networkx", None), ("python", None)]
)
def test_other_versions(name: str, module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tiny(), tmp_path / "run")
    if module is not None:
        monkeypatch.setattr(module, "__version__", "0.0.1")
    elif name == "python":
        monkeypatch.setattr(folder.platform, "python_version", lambda: "0.0.1")
    else:
        monkeypatch.setattr(record, "version", lambda name: "0.0.1")
    message = (
        rf"^a run must be resumed under the versions it began with, {name} '.*' in .*run; got '0.0.1'. Install that"
    )
    with pytest.raises(ValueError, match=message):
        run(tiny(), tmp_path / "run", resume=True)


def test_a_run_of_an_older_version_is_refused_by_its_name_and_stays_reportable(tmp_path: Path) -> None:
    from fedtangent.reports import records

    run(tiny(), tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("sources")
    manifest["versions"] = {"fedtangent": "0.1.0", "python": "3.11.7", "torch": torch.__version__, "numpy": "2.3"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"began with, fedtangent '0.1.0' in .*run; got '0.2"):
        run(tiny(), tmp_path / "run", resume=True)
    assert len(records.read(tmp_path / "run").rounds) == 2


def test_a_checkpoint_of_wrong_numbers_is_one_sentence(tmp_path: Path) -> None:
    built, path = setup(tiny()), tmp_path / "run" / checkpoint.NAME
    run(built, tmp_path / "run")
    header, tensors = tensor_file.read(path, "out", "")
    for field in ("round", "lines", "ledger", "fingerprint"):
        for value in (None, 3, "x", [], [3], {"sent": 3}, {"sent": [["a", "b"]]}):
            tensor_file.save(path, {**header, "meta": {**header["meta"], field: value}}, tensors)
            with pytest.raises(ValueError, match=r"^`out` must hold "):
                run(built, tmp_path / "run", resume=True)


def test_a_stopped_run_of_npz_data_goes_on_from_the_file(tmp_path: Path) -> None:
    given = {name: value for name, value in settings(rounds=3).items() if name != "dataset"}
    given |= {"data_dir": saved(tmp_path / "d.npz")}
    with pytest.raises(KeyboardInterrupt):
        fedtangent.run(**given, dataset="npz", out=tmp_path / "run", on_round=stopping(1))
    same(
        fedtangent.run(**given, dataset="npz", out=tmp_path / "run", resume=True),
        fedtangent.run(**given, dataset="npz"),
    )


def test_weights_in_channels_last_go_on_bit_for_bit(tmp_path: Path) -> None:
    """The order of a tensor's memory decides which convolution is run."""
    images = torch.randn(20, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    data = fedtangent.Dataset("i", images[:14], torch.arange(14) % 3, images[14:], torch.arange(6) % 3, 3)

    def model() -> nn.Module:
        torch.manual_seed(1)
        made = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.Flatten(), nn.Linear(80, 3))
        return made.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    given = {"dataset": data, "partition": "iid", "nodes": 2, "rounds": 4, "batch": 4}
    whole = fedtangent.run("fedavg", **given, model=model())
    with pytest.raises(KeyboardInterrupt):
        fedtangent.run("fedavg", **given, model=model(), out=tmp_path / "run", on_round=stopping(2))
    again = fedtangent.run("fedavg", **given, model=model(), out=tmp_path / "run", resume=True)
    same(again, whole)
    assert {w.stride() for w in again.weights.values()} == {w.stride() for w in whole.weights.values()}
