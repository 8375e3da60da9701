"""`flwr run` under SuperLink and SuperNodes, with TLS and node authentication: the record of one process; no hang."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedtangent.experiments.run import run as in_memory
from fedtangent.shard import Partition
from tests.experiments import tiny
from tests.flower.superlink import BIN, Flower
from tests.sites import processes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BIN.is_dir(), reason="needs the environment of make test-flower"),
]
NAMES = ("berlin", "paris", "rome")
OPTIONS: dict[str, dict[str, Any]] = {
    "fedavg": {"participation": 0.7, "batch": 4},
    "fedkfac": {"guard": False},
    "dfedavg": {"epochs": 2, "batch": 4, "momentum": 0.5, "degree": 2},
}
SERVED = ("fedavg", "fedkfac")


def partition() -> Partition:
    """Rows and test rows of three sites, none as many as another."""
    index = np.split(np.arange(sum(tiny.ROWS)), [7, 16])
    return Partition(index, test_index=np.split(np.arange(13), [2, 6]))


def expected(method: str, rounds: int) -> list[dict[str, Any]]:
    """The record of one process with all rows."""
    change = {"rounds": rounds, "dtype": "float64", "hidden": (6,), "engine": "sequential"}
    asked = tiny.experiment(method, **OPTIONS[method], **change, dataset=tiny.data(), partition=partition())
    return tiny.timeless(in_memory(asked).rounds)


def words(method: str, rounds: int) -> str:
    """The options as one types them."""
    given = {**OPTIONS[method], "rounds": rounds, "dtype": "float64", "hidden": 6}
    flags = [f"--no-{name}" if value is False else f"--{name} {value}" for name, value in given.items()]
    return " ".join(flags)


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    part, data = partition(), tiny.data()
    assert part.test_index is not None
    for name, rows, test in zip(NAMES, part.index, part.test_index, strict=True):
        arrays = {"x_train": data.x_train[rows], "y_train": data.y_train[rows]}
        arrays |= {"x_test": data.x_test[test], "y_test": data.y_test[test]}
        np.savez(tmp_path / f"{name}.npz", **{key: value.numpy() for key, value in arrays.items()})
    with Flower(tmp_path) as found:
        yield found


def nodes(flower: Flower, served: bool, wait: float = 100, **change: dict[str, Any]) -> None:
    """A SuperNode a site, with kit and rows; what is None in a change is not given."""
    processes.kits(flower.folder, served, NAMES, consent=["kernel", "raw-equivalent"], days=90)
    for name in NAMES:
        own = {
            "kit": str(flower.folder / "kits" / name),
            "dataset": "npz",
            "data-dir": str(flower.folder / f"{name}.npz"),
        }
        own |= {"out": str(flower.folder / "run"), "wait": wait, **change.get(name, {})}
        flower.node(name, {option: value for option, value in own.items() if value is not None})
    for name in NAMES:
        flower.until(name, "SuperNode ID")


def config(flower: Flower, method: str, rounds: int, more: str = "") -> dict[str, Any]:
    """What a run is given; the server records, or the SuperNode of the site that leads."""
    asked: dict[str, Any] = {"method": method, "options": f"{words(method, rounds)}{more}"}
    if method in SERVED:
        asked["options"] += f" --out {flower.folder / 'run'} --wait 250"
        asked["kit"] = str(flower.folder / "kits" / "server")
    return asked


@pytest.mark.parametrize("method", OPTIONS)
def test_the_record_is_that_of_one_process(method: str, flower: Flower) -> None:
    nodes(flower, method in SERVED)
    end = flower.run(**config(flower, method, 3))
    assert end.status == "finished:completed", end.said + flower.everything()
    assert processes.rounds(flower.folder / "run") == expected(method, 3)
    leader = "server" if method in SERVED else "berlin"
    assert f"berlin, paris, rome are there; {leader} leads {method}." in end.said
    assert "rome is done: rounds 3, " in end.said
    assert f"{method} by {leader} on hearts, 3 sites, 30 rows" in flower.said("rome")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kit": None}, "`kit` must be given to a SuperNode; got none. Add kit="),
        ({"data-dir": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_a_supernode_without_kit_or_data_ends_the_run_with_a_sentence(
    change: dict[str, Any], told: str, flower: Flower
) -> None:
    nodes(flower, True, paris=change)
    end = flower.run(**config(flower, "fedavg", 3))
    assert end.status == "finished:failed"
    (own,) = [line for line in flower.said("paris").splitlines() if line.startswith("fedtangent: ")]
    assert told in own
    (line,) = [line for line in end.said.splitlines() if line.startswith("fedtangent: ")]
    assert line.startswith("fedtangent: At SuperNode ") and own.removeprefix("fedtangent: ") in line
    assert "Traceback" not in flower.said("paris")
    assert not (flower.folder / "run").exists()


@pytest.mark.parametrize("method", ["fedavg", "dfedavg"])
def test_a_supernode_that_is_killed_and_started_again_takes_part_in_the_same_record(
    method: str, flower: Flower
) -> None:
    """Flower has to miss it first, for a minute; the others wait."""
    long = 200
    nodes(flower, method in SERVED, wait=250)
    number = flower.begun(**config(flower, method, long))
    flower.until("rome", f"round 3/{long}")
    flower.stop("paris", signal.SIGKILL)
    flower.again("paris")
    end = flower.ended(number)
    assert end.status == "finished:completed", end.said + flower.everything()
    assert "paris is connected again, and told to take part." in end.said
    assert f"paris is done: rounds {long}, " in end.said
    assert processes.rounds(flower.folder / "run") == expected(method, long)


@pytest.mark.parametrize("method", ["fedavg", "dfedavg"])
def test_a_run_that_is_stopped_ends_at_all_sites(method: str, flower: Flower) -> None:
    """By `flwr stop` where the ServerApp leads; a site that leads is stopped there, as it hears nothing of that."""
    nodes(flower, method in SERVED)
    number = flower.begun(**config(flower, method, 10**5))
    flower.until("rome", "round 3/100000")
    flower.flwr("stop", number, "here")
    assert flower.ended(number).status == "finished:stopped"
    if method not in SERVED:
        assert len(flower.left("flwr-clientapp")) == len(NAMES)
        flower.stop("berlin")
    leader = "server" if method in SERVED else "berlin"
    # at once, or, where rome heard it of paris first, when it has waited
    flower.until("rome", " The run has ended at all sites. Go on with --resume.")
    assert f"fedtangent: {leader} was stopped." in flower.said("rome")
    assert flower.remaining("flwr-clientapp") == []


def test_a_supernode_whose_key_nobody_has_registered_is_turned_away(flower: Flower) -> None:
    process = flower.node("stranger", {}, registered=False)
    assert process.wait(120) != 0
    assert json.loads(flower.flwr("supernode", "list", "here", "--format", "json"))["nodes"] == []
