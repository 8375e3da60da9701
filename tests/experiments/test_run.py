"""The training loop: what goes on the record, and that a run which was stopped goes on to the same one, bit for bit."""

import gc
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedtangent
from fedtangent import trees
from fedtangent.catalog import load, names
from fedtangent.experiments import atomic, checkpoint, record
from fedtangent.experiments.run import Result, run
from fedtangent.federation import Central, Each, Fleet, Method, NodeError
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.training import losses
from fedtangent.training.task import Task
from tests.experiments.tiny import ROWS, data, network, settings, timeless, tiny
from tests.measured import apart
from tests.often import METHODS, often


class Stop(Exception):
    """Stands for whatever ends a run."""


def stopping(after: int) -> Any:
    """Stops a run after a round."""

    def on_round(entry: dict[str, Any]) -> None:
        if entry["round"] == after:
            raise Stop

    return on_round


def same(found: Result, expected: Result) -> None:
    assert timeless(found.rounds) == timeless(expected.rounds)
    assert all(torch.equal(w, expected.weights[name]) for name, w in found.weights.items())


def spoilt(task: Task, *, rounds: int = 1) -> Method:
    """DFedAvg, whose weights are NaN after so many rounds."""
    inner = dfedavg(task, epochs=1)

    def round(fleet: Fleet, state: Any, data_k: Each[Any], k: int) -> tuple[Any, dict[str, Any]]:
        state, extra = inner.round(fleet, state, data_k, k)
        if k > rounds:
            nan = fleet.map(lambda w: trees.map(lambda leaf: leaf * torch.nan, w), state.w_k)
            return type(state)(nan), extra
        return state, extra

    return inner._replace(name="spoilt", round=round)


def failing(task: Task) -> Method:
    """DFedAvg, one of whose nodes fails in round 2."""
    inner = dfedavg(task, epochs=1)

    def fail(data: Any) -> Tensor:
        if len(data.x) == ROWS[2]:
            raise ArithmeticError("nothing to divide by")
        return data.x.sum()  # type: ignore[no-any-return]

    def round(fleet: Fleet, state: Any, data_k: Each[Any], k: int) -> tuple[Any, dict[str, Any]]:
        if k == 2:
            fleet.map(fail, data_k).settle()
        return inner.round(fleet, state, data_k, k)

    return inner._replace(name="failing", round=round)


@pytest.mark.few(3)
@pytest.mark.parametrize("method", often(names("methods"), [*METHODS, "scaffold"]))
def test_the_record_and_the_resumed_record(method: str, tmp_path: Path) -> None:
    whole = run(tiny(method, rounds=3))
    assert [entry["round"] for entry in whole.rounds] == [1, 2, 3]
    for entry in whole.rounds:
        assert 0 <= entry["worst_tenth_accuracy"] <= entry["mean_node_accuracy"] <= 1
        assert 0 <= entry["accuracy"] <= 1
        assert entry["loss"] > 0
        assert entry["seconds"] > 0
    for name in ("sent_bytes", "multiply_adds"):
        count = [entry[name] for entry in whole.rounds]
        assert count == sorted(count)
    assert whole.rounds[0]["multiply_adds"] > 0
    assert whole.manifest["forward_multiply_adds"] == 4 * 6 + 6 * 3
    talks = load("methods", method)(Task(network())).traits.neighbours
    assert all(("uplink_bytes" in entry) != talks for entry in whole.rounds)
    for after in (1, 3):
        out = tmp_path / str(after)
        with pytest.raises(Stop):
            run(tiny(method, rounds=3), out, on_round=stopping(after))
        seen: list[dict[str, Any]] = []
        found = run(tiny(method, rounds=3), out, resume=True, on_round=seen.append)
        same(found, whole)
        assert [entry["round"] for entry in seen] == list(range(after + 1, 4))
        lines = (out / "rounds.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == found.rounds


def test_bytes_are_the_messages_of_the_rounds_and_not_those_of_the_evaluation() -> None:
    found = run(tiny(degree=2, rounds=2))
    payload = 4 * sum(p.numel() for p in found.model.parameters())
    assert [entry["sent_bytes"] for entry in found.rounds] == [5 * 2 * payload, 2 * 5 * 2 * payload]


def test_the_seed_is_all_that_chance_hangs_on() -> None:
    one, again, other = (run(tiny(seed=seed)) for seed in (0, 0, 1))
    same(again, one)
    assert timeless(other.rounds) != timeless(one.rounds)


def test_the_model_is_the_aggregate_in_eval_mode(tmp_path: Path) -> None:
    found = run(tiny(rounds=1), tmp_path / "run")
    model, loaded = found.model, fedtangent.load(tmp_path / "run")
    assert not model.training
    x = data().x_test
    assert torch.equal(model(x), loaded(x))
    right = (model(x).argmax(-1) == data().y_test).float().mean()
    assert found.rounds[-1]["accuracy"] == pytest.approx(float(right))


def test_a_method_may_be_a_function_with_a_model_and_a_loss_of_ones_own(tmp_path: Path) -> None:
    model = network(2)
    before = [p.clone() for p in model.parameters()]
    asked = settings(
        dfedavg, degree=2, dataset=data(0), model=model, loss=nn.functional.smooth_l1_loss, lr=0.2, rounds=4
    )
    found = fedtangent.run(**asked, out=tmp_path / "run")
    assert found.rounds[-1]["loss"] < found.rounds[0]["loss"]
    assert "accuracy" not in found.rounds[0]
    assert found.manifest["experiment"]["loss"] == "smooth_l1_loss"
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    x = data(0).x_test
    assert torch.equal(fedtangent.load(tmp_path / "run", network(2))(x), found.model(x))


def test_a_tangent_method_takes_a_regression_with_a_loss_of_ones_own() -> None:
    loss = losses.custom(nn.functional.smooth_l1_loss, curvature=0.5)
    found = run(tiny("ntkdfl", dataset=data(0), model=network(2), loss=loss, rounds=2, times=(20, 200)))
    assert found.rounds[1]["loss"] < found.rounds[0]["loss"]
    assert all(time in (20, 200) for time in found.rounds[0]["time"])


@pytest.mark.parametrize("method", ["ntkdfl", "ntkfl", "fedavg", "dfedavg"])
def test_batch_norm_without_statistics(method: str) -> None:
    norm = nn.BatchNorm1d(6, affine=False, track_running_stats=False)
    model = nn.Sequential(nn.Linear(4, 6), norm, nn.ReLU(), nn.Linear(6, 3))
    message = "^`model` must not normalise by whatever rows come together; got batch norm without statistics at '1'"
    with pytest.raises(ValueError, match=message):
        run(tiny(method, model=model))


def test_a_diverged_model_stops_the_run_and_the_rounds_before_are_kept(tmp_path: Path) -> None:
    message = (
        r"^`spoilt` must keep its weights finite; got NaN or infinity in round 2. Use smaller steps; the rounds befo"
    )
    with pytest.raises(ValueError, match=message):
        run(tiny(spoilt, degree=2, rounds=3), tmp_path / "run")
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 1
    assert fedtangent.load(tmp_path / "run")(data().x_test).isfinite().all()


def test_a_loss_that_is_not_finite_is_null(tmp_path: Path) -> None:
    found = run(tiny("local", rounds=1, lr=1e30, momentum=0.0, epochs=1, batch=100), tmp_path / "run")
    assert found.rounds[0]["loss"] is None
    assert '"loss": null' in (tmp_path / "run" / "rounds.jsonl").read_text()


@pytest.mark.parametrize("method", ["ntkdfl", "ntkfl"])
def test_a_round_in_which_no_node_finds_anything_stops_the_run(method: str) -> None:
    message = rf"^`{method}` must find finite weights somewhere; got none on any node in round 1. Use smaller steps"
    with pytest.raises(ValueError, match=message):
        run(tiny(method, clock="descent", lr=1e38, times=(3, 7), rounds=1, model=network()))


def test_a_guard_that_lets_no_node_step_is_named() -> None:
    message = "got none on any node in round 1. Use smaller steps, more neighbours or rows, or take guard off; the"
    with pytest.raises(ValueError, match=message):
        run(tiny("dfedkfac", topology="line", guard=True, rounds=1, model=network()))


def test_nodes_that_find_nothing_are_counted() -> None:
    spoilt = data()
    spoilt.x_train[0] = 1e30
    found = run(tiny("ntkdfl", dataset=spoilt, topology="line", rounds=1, model=network()))
    assert found.rounds[0]["failed"] == 2  # the node and its one neighbour
    assert found.rounds[0]["time"][:2] == [0, 0]


def test_a_failing_node_is_named_and_the_rounds_before_are_kept(tmp_path: Path) -> None:
    message = r"^node 2 failed in 'fail' of failing, round 2: ArithmeticError: nothing to divide by"
    with pytest.raises(NodeError, match=message):
        run(tiny(failing, degree=2, rounds=3), tmp_path / "run")
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 1


def test_a_killed_run_goes_on_to_the_same_record(tmp_path: Path) -> None:
    """Killed for good, in the middle of writing what is after its checkpoint."""
    code = """
import os, signal, sys, torch
from fedtangent.experiments import checkpoint
from fedtangent.experiments.run import run
from tests.experiments.tiny import tiny
saves, save = [], checkpoint.save
def dying(*given):
    if saves:
        os.kill(os.getpid(), signal.SIGKILL)
    saves.append(save(*given))
checkpoint.save = dying
torch.set_num_threads(int(sys.argv[2]))
run(tiny(rounds=3), sys.argv[1])
"""
    out = tmp_path / "run"
    died, told = apart(code, str(out), str(torch.get_num_threads()))
    assert died == signal.SIGKILL, told
    assert len((out / "rounds.jsonl").read_text().splitlines()) == 2
    same(run(tiny(rounds=3), out, resume=True), run(tiny(rounds=3)))


def test_killed_before_the_first_checkpoint(tmp_path: Path) -> None:
    whole = run(tiny(), tmp_path / "run")
    (tmp_path / "run" / checkpoint.NAME).unlink()
    same(run(tiny(), tmp_path / "run", resume=True), whole)
    assert len((tmp_path / "run" / "rounds.jsonl").read_text().splitlines()) == 2


def test_resume_of_what_never_began_begins(tmp_path: Path) -> None:
    same(run(tiny(), tmp_path / "run", resume=True), run(tiny()))


def test_a_checkpoint_of_another_run(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("other", 1)):
        run(tiny(seed=seed), tmp_path / name)
    (tmp_path / "one" / checkpoint.NAME).write_bytes((tmp_path / "other" / checkpoint.NAME).read_bytes())
    with pytest.raises(
        ValueError, match=r"^`out` must hold the checkpoint of its own run; got that of another in .*one"
    ):
        run(tiny(), tmp_path / "one", resume=True)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs the names of open files")
@pytest.mark.parametrize("at", ["rounds.jsonl", "model.safetensors", "checkpoint.safetensors"])
def test_a_full_disk_loses_nothing(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stop):
        run(tiny(rounds=3), tmp_path / "run", on_round=stopping(1))
    sync = os.fsync

    def full(handle: int) -> None:
        if at in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")
        sync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(atomic.os, "fsync", full)
        message = (
            rf"^`out` must be a folder that can be written; got .*run \(No space left on device, at .*{at}\)\. Free so"
        )
        with pytest.raises(OSError, match=message):
            run(tiny(rounds=3), tmp_path / "run", resume=True)
    assert not list((tmp_path / "run").glob(".*"))
    same(run(tiny(rounds=3), tmp_path / "run", resume=True), run(tiny(rounds=3)))


def test_nodes_are_measured_as_often_as_asked() -> None:
    found = run(tiny(evaluate_nodes_every=2, rounds=3))
    assert [entry["mean_node_accuracy"] is None for entry in found.rounds] == [True, False, True]


def test_what_a_method_holds_at_the_server_is_recorded_too() -> None:
    assert isinstance(run(tiny("ntkfl", rounds=1)).rounds[0]["time"], int)
    assert record.line({}, {"a": Central(torch.tensor([1.5, 2.0]))}) == {"a": [1.5, 2.0]}


def test_the_collector_of_garbage_passes_over_what_was_there_and_is_as_before_afterwards() -> None:
    counts = []
    run(tiny(rounds=2), on_round=lambda entry: counts.append(gc.get_freeze_count()))
    assert min(counts) > 10_000 and gc.get_freeze_count() == 0
    gc.freeze()
    try:
        run(tiny(rounds=1))
        assert gc.get_freeze_count() > 0  # somebody else's
    finally:
        gc.unfreeze()
    with pytest.raises(Stop):
        run(tiny(rounds=3), on_round=stopping(1))
    assert gc.get_freeze_count() == 0


def test_a_run_goes_by_the_device_it_is_given() -> None:
    experiment = tiny(model=network())
    expected = run(experiment)
    torch.set_default_device("meta")  # as "cuda" is where a run is on the CPU
    try:
        found = run(experiment)
    finally:
        torch.set_default_device(None)
    same(found, expected)


def test_a_folder_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = run(tiny(rounds=1), "~/runs/a")
    assert found.folder == tmp_path / "runs/a"
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    loaded = fedtangent.load("~/runs/a").state_dict()
    assert all(torch.equal(part, loaded[name]) for name, part in found.model.state_dict().items())


def test_what_is_done_to_an_entry_changes_no_record(tmp_path: Path) -> None:
    found = run(tiny(rounds=2), tmp_path / "a", on_round=dict.clear)
    assert [entry["round"] for entry in found.rounds] == [1, 2]


def test_an_experiment_is_run_as_it_is(tmp_path: Path) -> None:
    asked = tiny(rounds=2)
    found = fedtangent.run(asked, out=tmp_path / "a")
    assert found.manifest["experiment"] == run(asked).manifest["experiment"]
    with pytest.raises(
        ValueError, match=r"^`settings` must be left out of an experiment, which has them; got seed, lr\."
    ):
        fedtangent.run(asked, seed=3, lr=0.1)


def test_on_round_must_take_an_entry() -> None:
    with pytest.raises(TypeError, match=r"^`on_round` must be a function of \(entry\); got int. Give a function.$"):
        run(tiny(rounds=2), on_round=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("out", [5, "a\0b", ["runs"], ""])
def test_a_folder_is_a_path(out: Any) -> None:
    with pytest.raises(TypeError, match=r"^`out` must be a path; got .*\. Name a folder\.$"):
        run(tiny(), out)
