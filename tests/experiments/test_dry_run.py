"""A dry run tells the bytes of the real one, and runs less."""

import time
from typing import Any

import pytest
from torch import nn

from fedtangent.catalog import names
from fedtangent.experiments.dry_run import dry_run, foreseen
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.federation import Each, Fleet, Method
from fedtangent.methods.dfedavg import dfedavg
from fedtangent.shard import Shard
from fedtangent.training import batch_norm
from fedtangent.training.task import Task
from tests.experiments.tiny import data, network, timeless, tiny
from tests.often import often

calls: list[int] = []


def counting(task: Task) -> Method:
    """DFedAvg, which counts the nodes that work."""
    inner = dfedavg(task, epochs=1)

    def count(data: Shard) -> Any:
        calls.append(len(data.x))
        return data.x.sum()

    def round(fleet: Fleet, state: Any, data_k: Each[Shard], k: int) -> tuple[Any, dict[str, Any]]:
        return inner.round(fleet, state, data_k, k)[0], {"sum": fleet.map(count, data_k)}

    return inner._replace(name="counting", round=round)


@pytest.mark.few(3)
@pytest.mark.parametrize("method", often(names("methods")))
def test_bytes_are_those_of_the_run(method: str) -> None:
    plan = dry_run(setup(tiny(method, rounds=3)))
    sent = [entry["sent_bytes"] for entry in run(tiny(method, rounds=3)).rounds]
    assert plan.first_round_bytes == sent[0]
    later = sent[2] - sent[0] if method == "fedpart" else 2 * (sent[1] - sent[0])  # on average of a cycle
    assert plan.later_round_bytes == later // 2
    if method != "ntkfl":  # whose drawn clients have more or fewer rows from round to round
        assert plan.total_bytes == sent[-1]


@pytest.mark.parametrize(("engine", "runs"), [("sequential", [5] * 4), ("vectorized", [5] * 2)])
def test_of_nodes_alike_two_work_one_by_one_and_all_together(engine: str, runs: list[int]) -> None:
    calls.clear()
    plan = dry_run(setup(tiny(counting, partition="iid", nodes=6, degree=3, rounds=9, engine=engine)))
    assert calls == runs
    assert plan.seconds > 9 * plan.seconds_a_round > 0
    assert plan.evaluation_seconds > 0


def test_statistics_of_batch_norm_are_summed_on_two_nodes_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = network()
    summed, sums = [], batch_norm.sums

    def count(*given: Any) -> Any:
        summed.append(given)
        return sums(*given)

    monkeypatch.setattr(batch_norm, "sums", count)
    model = nn.Sequential(first, batch_norm.BatchNorm(6), *rest)
    dry_run(setup(tiny("fedavg", model=model, partition="iid", nodes=6, participation=1.0, engine="sequential")))
    assert len(summed) == 2


def test_one_round_has_no_later_one() -> None:
    plan = dry_run(setup(tiny(rounds=1)))
    assert (plan.later_round_bytes, plan.total_bytes) == (0, plan.first_round_bytes)


def test_memory_holds_data_and_state_and_a_chunk() -> None:
    few, many = (dry_run(setup(tiny(memory=memory))).memory_bytes for memory in (0, 2**30))
    assert data().x_train.nbytes + data().x_test.nbytes < few < many


def test_a_regression_is_evaluated_without_the_nodes() -> None:
    assert dry_run(setup(tiny(dataset=data(0)))).evaluation_seconds > 0


@pytest.mark.parametrize(("warm_up", "once", "rounds"), [(1, False, 7), (4, True, 15), (4, True, 6), (0, True, 5)])
def test_a_schedule_is_played_for_one_cycle_and_recurs(warm_up: int, once: bool, rounds: int) -> None:
    """FedPart of full and 2 partial rounds: 7 are 1, then 2 cycles of 3; 15 are 1, 3 that never come again, then 2s."""
    settings = {"warm_up": warm_up, "warm_up_once": once, "rounds_per_group": 1, "rounds": rounds}
    plan = dry_run(setup(tiny("fedpart", host="fedavg", participation=1.0, **settings)))
    sent = [entry["sent_bytes"] for entry in run(tiny("fedpart", host="fedavg", participation=1.0, **settings)).rounds]
    assert plan.total_bytes == sent[-1]
    first, cycle = (1 + warm_up, 2) if once else (1, warm_up + 2)
    played = min(cycle, rounds - first)
    assert plan.later_round_bytes == (sent[first - 1 + played] - sent[first - 1]) // played


def sleeping(first: float, each: float) -> Any:
    """A method whose work takes a while: in the first call of all another one than in the later ones."""
    worked: list[int] = []

    def method(task: Task) -> Method:
        inner = dfedavg(task, epochs=1)

        def work(data: Shard) -> Any:
            time.sleep(each if worked else first)
            worked.append(1)
            return data.x.sum()

        def round(fleet: Fleet, state: Any, data_k: Each[Shard], k: int) -> tuple[Any, dict[str, Any]]:
            return inner.round(fleet, state, data_k, k)[0], {"sum": fleet.map(work, data_k)}

        return inner._replace(name="sleeping", round=round)

    return method


def test_what_happens_once_is_told_once() -> None:
    method = sleeping(0.5, 0.0)
    plan = dry_run(setup(tiny(method, partition="iid", nodes=15, degree=2, rounds=1, engine="sequential")))
    assert 0.5 < plan.seconds_a_round < 3  # of fifteen times that


def test_time_is_that_of_the_engine_of_the_run() -> None:
    """Which takes all nodes at once, or one after the other."""
    settings = {"partition": "iid", "nodes": 15, "degree": 2, "rounds": 1}
    together, apart = (
        dry_run(setup(tiny(sleeping(0.3, 0.3), **settings, engine=engine))).seconds_a_round
        for engine in ("vectorized", "sequential")
    )
    assert 0.3 < together < 4.5 < apart


def test_memory_holds_the_states_before_within_and_after_a_round() -> None:
    """Of many nodes with nothing but weights; those that a server averages are not mixed in between."""
    talking, served = (
        dry_run(setup(tiny(method, partition="iid", nodes=30, hidden=(500,), memory=0))).memory_bytes
        for method in ("dfedavg", "local")
    )
    weights = 4 * (4 * 500 + 500 + 500 * 3 + 3)
    assert 28 * weights < talking - served < 35 * weights


@pytest.mark.parametrize(
    ("method", "more"),
    [("dfedavg", {"degree": 4}), ("dfedavg", {"degree": 5}), ("fedavg", {}), ("local", {}), ("scaffold", {})],
)
def test_what_a_few_nodes_foresee_is_the_bill_of_all(method: str, more: dict[str, Any]) -> None:
    half = {"participation": 0.5} if method in ("fedavg", "scaffold") else {}
    built = setup(tiny(method, partition="iid", nodes=30, rounds=40, **half, **more))
    seen, whole = foreseen(built), dry_run(built)
    assert seen is not None
    assert seen[:3] == whole[:3]
    assert seen.seconds > 0


def test_nothing_is_foreseen_of_a_short_run_or_a_method_that_refuses_so_few() -> None:
    assert foreseen(setup(tiny("dfedavg", partition="iid", nodes=30, rounds=9))) is None
    assert foreseen(setup(tiny("dfedavg", partition="iid", nodes=5, rounds=1000))) is None
    assert foreseen(setup(tiny("afl", partition="iid", nodes=30, rounds=40))) is None


def test_to_foresee_changes_nothing() -> None:
    def record(look: bool) -> list[dict[str, Any]]:
        built = setup(tiny("dfedavg", partition="iid", nodes=30, rounds=20, degree=4))
        assert not look or foreseen(built) is not None
        return timeless(run(built).rounds)

    assert record(True) == record(False)
