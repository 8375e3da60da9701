"""What Flower's configurations say is what the commands understand; nothing from afar names a file."""

from typing import Any

import pytest

from fedtangent.flower import words
from fedtangent.sites import commands


def test_a_run_with_a_server_is_told_as_its_command() -> None:
    options = "--rounds 3 --lr 0.5 --out 'my run' --secure_sums"
    given = words.of_run({"kit": "kits/server", "method": "fedavg", "options": options})
    assert given == (
        "kits/server",
        {"method": "fedavg", "rounds": 3, "method.lr": 0.5},
        {"out": "my run", "secure_sums": True},
    )


def test_a_run_without_a_server_is_told_as_start_is() -> None:
    given = words.of_run({"kit": "", "method": "dfedavg", "options": "--degree 2 --resume --wait 9"})
    assert given.settings == {"method": "dfedavg", "topology.degree": 2}
    assert given.how == {"resume": True, "wait": 9.0}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--data-dir x", "`options` must leave data_dir to the sites; got it for the run."),
        ("--dataset npz", "`options` must leave dataset to the sites"),
        ("--dataset npz --classes 3", "`options` must leave dataset to the sites"),
        ("--device cuda", "`options` must leave device to the sites"),
        ("--out runs/x", "`options` must leave out to the sites"),
        ("--track mlflow", "`options` must leave track to the sites"),
        ("--listen 0.0.0.0:1", "`options` must leave listen to the sites"),
        ("--degree '2", "`options` must be words as in a shell; got No closing quotation. Close the quotation."),
        ("--help", "`options` must be those of a run; got --help."),
        ("--degres 2", "Did you mean 'degree'?"),
    ],
)
def test_what_a_run_cannot_say(options: str, told: str) -> None:
    with pytest.raises(ValueError) as error:
        words.of_run({"method": "dfedavg", "options": options})
    assert told in str(error.value)


def test_a_run_needs_a_method() -> None:
    with pytest.raises(ValueError, match=r"must be .*fedavg"):
        words.of_run({"method": "", "options": ""})


def test_a_supernode_is_told_as_a_site_is() -> None:
    node = {"kit": "/k", "dataset": "npz", "data_dir": "-x.npz", "classes": 10, "wait": 7, "out": "o", "state": "s"}
    rows = {"dataset": "npz", "data_dir": "-x.npz", "dataset_options": {"classes": 10}}
    assert words.of_node(node, False) == ("/k", rows, {"wait": 7.0, "state": "s"})
    assert words.of_node({**node, "device": "cuda:1"}, False).settings == {**rows, "device": "cuda:1"}
    assert words.of_node({**node, "track": "mlflow, tensorboard"}, True) == (
        "/k",
        rows,
        {"wait": 7.0, "out": "o", "track": ("mlflow", "tensorboard")},
    )


def test_a_yes_is_an_option_alone_and_a_no_its_opposite() -> None:
    node = {"kit": "/k", "dataset": "table", "data-dir": "x.csv"}
    with pytest.raises(ValueError, match="`shuffle` must be an option of site"):
        words.of_node({**node, "shuffle": True}, False)
    with pytest.raises(ValueError, match="`no_shuffle` must be an option of site"):
        words.of_node({**node, "shuffle": False}, False)


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({}, "`kit` must be given to a SuperNode; got none. Add kit="),
        ({"kit": "/k", "partition-id": 3}, "`partition_id` must be an option of site; got an unknown name."),
        ({"kit": "/k", "wait": "soon"}, "`wait` must be a number; got 'soon'."),
    ],
)
def test_what_a_supernode_cannot_say(node: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as error:
        words.of_node(node, False)
    assert told in str(error.value)


def test_numbers_and_yes_or_no_come_from_afar() -> None:
    how = {"resume": True, "patience": 9.5, "wait": 3, "standardise": False, "secure_sums": True}
    assert words.from_afar(how) == how


@pytest.mark.parametrize(
    "how", [{"out": "/etc"}, {"out": None}, {"listen": "0.0.0.0:1"}, {"track": ["./x.py"]}, {"kit": 1}, {"wait": "1"}]
)
def test_nothing_that_could_name_a_file_comes_from_afar(how: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(how))}` must not be told from afar; got it from the ServerApp"):
        words.from_afar(how)


def test_defaults_are_those_of_the_command() -> None:
    assert words.completed(commands.site, {"wait": 1.0}) == {"wait": 1.0, "listen": None, "state": None}
