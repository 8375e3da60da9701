"""Each tracker against the real library on this machine: settings, rounds, files, resumption, and what cannot be."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fedtangent
from fedtangent import catalog, cli
from fedtangent.experiments.run import run
from fedtangent.experiments.tracking import Tracking
from tests.experiments.tiny import settings, tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own
Found = tuple[dict[str, str], dict[str, list[tuple[int, float]]], set[str]]  # settings, curves, names of files


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the current one, and where nothing is asked of the network."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_tensorboard(folder: Path) -> Found:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    held = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    curves = {name: [(one.step, one.value) for one in held.Scalars(name)] for name in held.Tags()["scalars"]}
    (text,) = held.Tensors("settings/text_summary")
    told = json.loads(text.tensor_proto.string_val[0].decode().strip("`\n"))
    return {name: str(value) for name, value in told.items()}, curves, {path.name for path in folder.iterdir()}


def in_mlflow(folder: Path) -> Found:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=Path("mlruns").resolve().as_uri())
    (experiment,) = [one for one in client.search_experiments() if one.name == "fedtangent"]
    (held,) = client.search_runs([experiment.experiment_id])
    assert held.info.status == "FINISHED" and held.info.run_name == "fedavg on tiny, seed 0"
    curves = {
        name: [(one.step, one.value) for one in client.get_metric_history(held.info.run_id, name)]
        for name in held.data.metrics
    }
    return held.data.params, curves, {Path(one.path).name for one in client.list_artifacts(held.info.run_id)}


def records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: a LevelDB log of 32 kB blocks after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    held, at, whole = path.read_bytes(), 7, b""
    while at < len(held):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        count, kind = int.from_bytes(held[at + 4 : at + 6], "little"), held[at + 6]
        whole, at = whole + held[at + 7 : at + 7 + count], at + 7 + count
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def in_wandb(folder: Path) -> Found:
    told: dict[str, str] = {}
    curves: dict[str, list[tuple[int, float]]] = {}
    files: set[str] = set()
    ids = set()
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in records(path):
            kind = record.WhichOneof("record_type")
            assert kind != "environment"  # nothing of the machine
            if kind == "run":
                ids.add(record.run.run_id)
                assert (record.run.project, record.run.display_name) == ("fedtangent", "fedavg on tiny, seed 0")
            for update in (
                record.run.config.update if kind == "run" else record.config.update if kind == "config" else ()
            ):
                told[update.key or ".".join(update.nested_key)] = str(json.loads(update.value_json))
            if kind == "history":
                numbers = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                for name in numbers.keys() - {"_step", "_runtime", "_timestamp"}:
                    curves.setdefault(name, []).append((record.history.step.num, numbers[name]))
            if kind == "artifact":
                files |= {entry.path for entry in record.artifact.manifest.contents}
    assert len(ids) == 1
    return told, curves, files


def in_trackio(folder: Path) -> Found:
    from trackio import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("fedtangent")
    rows = SQLiteStorage.get_logs("fedtangent", name)
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key in row.keys() - {"step", "timestamp"}:
            curves.setdefault(key, []).append((row["step"], row[key]))
    told = SQLiteStorage.get_run_config("fedtangent", name)
    (kept,) = SQLiteStorage.list_artifacts("fedtangent")
    manifest = SQLiteStorage.get_artifact_manifest("fedtangent", kept["name"], "latest")
    files = {one["path"] for one in manifest["manifest"]}
    return {key: str(value) for key, value in told.items()}, curves, files


READ: dict[str, Callable[[Path], Found]] = {
    "tensorboard": in_tensorboard,
    "mlflow": in_mlflow,
    "wandb": in_wandb,
    "trackio": in_trackio,
}


@pytest.fixture
def tracker(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracker's name; its library is there, and writes where nobody else does."""
    name = str(request.param)
    pytest.importorskip(name, reason=f"needs fedtangent[{name}]")
    if name == "trackio":
        for module in list(sys.modules):  # its place is read when it is imported
            if module.partition(".")[0] == "trackio":
                monkeypatch.delitem(sys.modules, module)
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "track io"))
    return name


every = pytest.mark.parametrize("tracker", READ, indirect=True)


def test_every_tracker_is_read_here() -> None:
    assert sorted(READ) == catalog.names("trackers")


def checked(tracker: str, folder: Path, rounds: list[dict[str, Any]]) -> None:
    """Settings, every number of every round, once, and the files."""
    told, curves, files = READ[tracker](folder)
    assert told["options.batch"] == "4" and told["exposure"] == "aggregate" and told["method"] == "fedavg"
    numbers = {name for name, value in rounds[0].items() if isinstance(value, (int, float))} - {"round"}
    assert set(curves) == numbers
    for name in numbers:
        steps, values = zip(*sorted(curves[name]), strict=True)
        assert steps == tuple(range(1, len(rounds) + 1)), name
        assert values == pytest.approx([entry[name] for entry in rounds], rel=1e-6)
    assert {"report.html", "model.safetensors", "manifest.json"} <= files


@pytest.mark.few(2)
@every
def test_settings_rounds_and_files(tracker: str, tmp_path: Path) -> None:
    found = fedtangent.run(**settings("fedavg", rounds=3), out=tmp_path / "a run", track=[tracker])
    checked(tracker, tmp_path / "a run", found.rounds)


@pytest.mark.few(1)
@every
def test_a_run_that_goes_on_is_one_run(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the checkpoint of its second round and its tracker; then ended, then extended."""
    log, out = Tracking.log, tmp_path / "a run"

    def killed(self: Tracking, entry: dict[str, Any]) -> None:
        if entry["round"] == 2:
            raise KeyboardInterrupt
        log(self, entry)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Tracking, "log", killed)
        run(tiny("fedavg", rounds=4), out, track=[tracker])
    fedtangent.run(**settings("fedavg", rounds=4), out=out, resume=True, track=[tracker])
    found = fedtangent.run(**settings("fedavg", rounds=6), out=out, resume=True, track=[tracker])
    checked(tracker, out, found.rounds)


@every
def test_a_tracker_that_comes_later_is_given_all_rounds(tracker: str, tmp_path: Path) -> None:
    fedtangent.run(**settings("fedavg", rounds=2), out=tmp_path / "a run")
    found = fedtangent.run(**settings("fedavg", rounds=3), out=tmp_path / "a run", resume=True, track=[tracker])
    checked(tracker, tmp_path / "a run", found.rounds)


@every
def test_one_that_is_not_installed(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if tracker == "tensorboard" else tracker, None)
    with pytest.raises(ValueError, match=rf"^`{tracker}` must be installed .*; got none\. .*fedtangent\[{tracker}\]"):
        run(tiny("fedavg"), tmp_path / "run", track=[tracker])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tracker", ["mlflow", "trackio"], indirect=True)
def test_one_that_cannot_write(tracker: str, tmp_path: Path) -> None:
    (tmp_path / {"mlflow": "mlruns", "trackio": "track io"}[tracker]).write_text("a file in the place of the folder")
    with pytest.raises(
        ValueError, match=rf"^`track` must name trackers that can be written; got {tracker}: \w+: .*leave i"
    ):
        run(tiny("fedavg"), tmp_path / "run", track=[tracker])


@pytest.mark.parametrize("tracker", ["mlflow", "trackio"], indirect=True)
def test_one_whose_run_is_gone(tracker: str, tmp_path: Path) -> None:
    run(tiny("fedavg"), tmp_path / "run", track=[tracker])
    told = json.loads((tmp_path / "run" / "trackers.json").read_text())
    (tmp_path / "run" / "trackers.json").write_text(json.dumps({tracker: told[tracker] | {"id": "0" * 32}}))
    with pytest.raises(ValueError, match=r"^`track` must name .*or remove trackers.json from the folder to begin anew"):
        run(tiny("fedavg", rounds=3), tmp_path / "run", track=[tracker], resume=True)
    (tmp_path / "run" / "trackers.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"^`out` must hold the trackers.json that its run wrote; got another in .*Remove"
    ):
        run(tiny("fedavg", rounds=3), tmp_path / "run", track=[tracker], resume=True)


OWN = '''"""mine: a tracker that fails in some rounds."""
from pathlib import Path
from fedtangent.trackers._tracker import Tracker

def mine():
    def begin(run):
        def log(k, numbers):
            if k in (2, 4) and not Path("mended").exists():
                raise OSError("the disk\\n is full.")
            with open("own.txt", "a") as file:
                file.write(f"{k} ")

        def finish(files, well):
            with open("own.txt", "a") as file:
                file.write("well " if well else "not well ")

        return Tracker("own", log, finish)

    return begin
'''


def test_a_tracker_of_ones_own_that_fails_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text(OWN)
    found = run(tiny("fedavg", rounds=3), tmp_path / "run", track="mine.py")
    assert len(found.rounds) == 3 and Path("own.txt").read_text() == "1 "
    told = (
        "fedtangent: mine could not be written after round 2 (OSError: the disk is full); the run goes on without it, "
    )
    assert told in capsys.readouterr().err
    Path("mended").touch()
    run(tiny("fedavg", rounds=4), tmp_path / "run", track=["mine.py"], resume=True)
    assert Path("own.txt").read_text() == "1 2 3 4 well "

    def stop(entry: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny("fedavg", rounds=3), tmp_path / "other", track="mine.py", on_round=stop)
    assert Path("own.txt").read_text() == "1 2 3 4 well 1 not well "


def test_what_is_wrong_is_told_in_a_sentence(tmp_path: Path) -> None:
    for given, message in (
        ({"track": ["mlflow"]}, r"^`track` must have a folder to write to; got no `out`\. Give --out\.$"),
        ({"tensorboard": True}, r"^`tensorboard` must have a folder to write to; got no `out`\. Give --out\.$"),
        (
            {"track": ["comet"], "out": tmp_path / "run"},
            r"^`track` must be one of mlflow, tensorboard, trackio, wandb; got",
        ),
        (
            {"track": ["mlflow"] * 2, "out": tmp_path / "run"},
            r"^`track` must name each tracker once; got 'mlflow' twice",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run(tiny("fedavg"), **given)  # type: ignore[arg-type]


@pytest.mark.usefixtures("forked_ranks")
def test_ranks_are_tracked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs fedtangent[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # for the look at it
    words = ["run", "fedavg", "--nodes", "2", "--rounds", "2", "--batch", "4", "--ranks", "2", "--engine", "sequential"]
    assert cli.main([*words, "--track", "mlflow", "--out", str(tmp_path / "run")]) == 0
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=Path("mlruns").resolve().as_uri())
    (held,) = client.search_runs([one.experiment_id for one in client.search_experiments() if one.name == "fedtangent"])
    assert [one.step for one in client.get_metric_history(held.info.run_id, "loss")] == [1, 2]
