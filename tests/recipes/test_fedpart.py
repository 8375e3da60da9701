"""FedPart's tables: runs as from the command line, the paper's accounting beside them; the table worked out by hand."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedtangent
from fedtangent.recipes import fedpart as recipe
from fedtangent.reports import partial_bill

LOCAL: dict[str, Any] = {"epochs": 2, "batch": 7, "lr": 0.002, "optimizer": "adam"}
SMALL: dict[str, Any] = {
    "dataset": "digits", "model": "mlp", "clients": 3, "rows": 20, "warm_up": 1, "cycles": 2, **LOCAL,
}  # fmt: skip
SIZES = [64 * 100 + 100, 100 * 10 + 10]  # the two groups of the network
CYCLE = 1 + 2 * 2
OWN = {"partition": "iid_overlapping", "size": 20, "nodes": 3, "evaluate_nodes_every": 0}


PICTURES = """
from fedtangent.datasets.digits import digits


def pictures(data_dir):
    found = digits(data_dir)
    return found._replace(x_train=found.x_train.view(-1, 1, 8, 8), x_test=found.x_test.view(-1, 1, 8, 8))
"""


@cache
def hosts() -> list[dict[str, Any]]:
    return list(recipe.fedpart(**SMALL, seed=3))


def of(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["column"] == column]


@pytest.mark.few(3)
@pytest.mark.parametrize("host", recipe.HOSTS)
@pytest.mark.parametrize("updates", recipe.UPDATES)
def test_rows_are_those_of_runs(host: str, updates: str) -> None:
    rows = of(hosts(), f"{host} {updates}")
    assert [(row["round"], row["cycle"], row["seed"]) for row in rows] == [(k, (k + 4) // 5, 3) for k in range(1, 11)]
    mu = {"FedProx": {"mu": 0.01}, "MOON": {"mu": 1.0}}.get(host, {})
    if updates == "full":
        chosen: dict[str, Any] = {"method": recipe.HOSTS[host], **LOCAL, **mu}
    else:
        inner = {f"host.{name}": value for name, value in {**LOCAL, **mu}.items()}
        chosen = {"method": "fedpart", "host": recipe.HOSTS[host], "warm_up": 1, **inner}
    alone = fedtangent.run(**chosen, **OWN, dataset="digits", model="mlp", rounds=10, seed=3).rounds
    for row, entry in zip(rows, alone, strict=True):
        assert row["accuracy"] == entry["accuracy"]
        assert row["uplink_bytes"] == entry["uplink_bytes"]
        assert row["uplink_bytes"] + row["downlink_bytes"] == entry["sent_bytes"]
        assert row["multiply_adds"] == entry["multiply_adds"] / 3


def test_the_images_of_a_batch_are_moved_where_asked_for(tmp_path: Path) -> None:
    (tmp_path / "pictures.py").write_text(PICTURES)
    small = {**SMALL, "dataset": str(tmp_path / "pictures.py"), "cycles": 1, "columns": ("FedAvg full",)}
    plain, moved = (list(recipe.fedpart(**small, augment=augment)) for augment in (False, True))
    options = {"dataset": str(tmp_path / "pictures.py"), "augment": "images", "degrees": 15.0, "rounds": 5}
    alone = fedtangent.run("fedavg", model="mlp", **LOCAL, **OWN, **options)
    assert [row["accuracy"] for row in moved] == [entry["accuracy"] for entry in alone.rounds]
    assert [row["accuracy"] for row in moved] != [row["accuracy"] for row in plain]


@pytest.mark.parametrize("cycles", [1, 2])
def test_the_papers_accounting_stands_beside_what_was_run(cycles: int) -> None:
    schedule = partial_bill.Schedule(2, 1, 2)
    sent = partial_bill.sent_parameters(SIZES, schedule, cycles)
    work = partial_bill.multiply_adds(64 * 100 + 100 * 10, 2 * 20, schedule, cycles)
    for host in recipe.HOSTS:
        for i, updates in enumerate(recipe.UPDATES):
            row = of(hosts(), f"{host} {updates}")[cycles * CYCLE - 1]
            assert row["paper_gigabytes"] == pytest.approx(partial_bill.gigabytes(sent[i], 3), rel=1e-12)
            assert row["paper_multiply_adds"] == pytest.approx(work[i], rel=1e-12)
            messages = 8 * 3 * cycles * CYCLE  # of every client's weight in the mean
            assert row["uplink_bytes"] == 4 * 3 * sent[i] + messages


def test_partial_updates_cost_less_than_full_ones() -> None:
    for host in recipe.HOSTS:
        full, partial = (of(hosts(), f"{host} {updates}") for updates in recipe.UPDATES)
        assert full[0] | {"column": ""} == partial[0] | {"column": ""}  # a full round opens the cycle
        for key in ("uplink_bytes", "downlink_bytes", "multiply_adds", "paper_gigabytes", "paper_multiply_adds"):
            assert partial[-1][key] < full[-1][key]


def test_the_study_of_warm_up() -> None:
    rows = list(recipe.fedpart(table="warm_up", columns=("0", "3"), **{**SMALL, "warm_up": None}))
    none, some = of(rows, "0"), of(rows, "3")
    assert [row["cycle"] for row in none] == [1] * 4 + [2] * 4
    assert [row["cycle"] for row in some] == [0] * 3 + [1] * 4 + [2] * 4
    inner = {f"host.{name}": value for name, value in LOCAL.items()}
    own = {**OWN, **inner, "warm_up": 3, "warm_up_once": True, "dataset": "digits", "model": "mlp", "rounds": 11}
    alone = fedtangent.run("fedpart", **own).rounds
    assert [row["accuracy"] for row in some] == [entry["accuracy"] for entry in alone]
    forward, samples = 64 * 100 + 100 * 10, 2 * 20
    assert some[-1]["paper_multiply_adds"] == pytest.approx(3 * forward * samples * (3 + 8 * 2 / 3))
    assert some[-1]["paper_gigabytes"] == pytest.approx(partial_bill.gigabytes((3 + 4) * sum(SIZES), 3))


def test_the_study_of_order() -> None:
    rows = list(recipe.fedpart(table="order", columns=("reverse", "sequential"), **SMALL))
    reverse, sequential = of(rows, "reverse"), of(rows, "sequential")
    assert rows == reverse + sequential
    assert [row["cycle"] for row in reverse] == [0] + [1] * 4 + [2] * 4
    up = [np.diff([row["uplink_bytes"] for row in own]).tolist() for own in (reverse, sequential)]
    first, last = (4 * 3 * size + 3 * 8 for size in SIZES)
    assert up == [[last, last, first, first] * 2, [first, first, last, last] * 2]


@pytest.mark.parametrize("there", [4, 10, 13, 20])
def test_what_is_there_is_not_run_again(there: int) -> None:
    rows = hosts()[:20]
    columns = ("FedAvg full", "FedAvg partial")
    assert [row["column"] for row in rows[::10]] == [*columns]
    assert rows[:there] + list(recipe.fedpart(rows[:there], **SMALL, seed=3, columns=columns)) == rows


def test_every_seed_is_a_run_of_its_own() -> None:
    rows = list(recipe.fedpart(**SMALL, seed=2, seeds=2, columns=("FedAvg partial",)))
    assert [row["seed"] for row in rows] == [2] * 10 + [3] * 10
    assert rows[10:] == of(hosts(), "FedAvg partial")
    (one, two) = recipe.table(rows)
    best = [100 * max(row["accuracy"] for row in rows if row["seed"] == seed) for seed in (2, 3)]
    assert two["best"] == pytest.approx(sum(best) / 2)
    assert two["dev"] == pytest.approx(abs(best[0] - best[1]) / math.sqrt(2))
    assert one["best"] <= two["best"]


def made(column: str, course: list[float], cycles: list[int], table: str = "hosts") -> list[dict[str, Any]]:
    """Rounds of 2 GB to the server and 1 from it, and 3e12 multiply-adds."""
    return [
        {
            "table": table,
            "column": column,
            "seed": 0,
            "round": k,
            "cycle": cycle,
            "accuracy": accuracy,
            "uplink_bytes": k * 2_000_000_000,
            "downlink_bytes": k * 1_000_000_000,
            "multiply_adds": k * 3e12,
            "paper_gigabytes": k * 1.9,
            "paper_multiply_adds": k * 3.5e12,
        }
        for k, (accuracy, cycle) in enumerate(zip(course, cycles, strict=True), 1)
    ]


def test_the_table_is_the_hands() -> None:
    rows = made("FedAvg full", [0.3, 0.5, 0.4, 0.45], [1, 1, 2, 2]) + made("FedAvg partial", [0.2, 0.6], [1, 2])
    full_1, full_2, partial_1, partial_2 = recipe.table(rows)
    assert math.isnan(full_1.pop("dev"))
    assert full_1 == {
        "column": "FedAvg full",
        "cycle": 1,
        "best": 50.0,
        "last": 50.0,
        "up GB": 4.0,
        "paper GB": 3.8,
        "down GB": 2.0,
        "TMAC": 6.0,
        "paper TMAC": 7.0,
    }
    assert (full_2["cycle"], full_2["best"], full_2["last"], full_2["up GB"]) == (2, 50.0, 45.0, 8.0)
    assert [(row["column"], row["best"]) for row in (partial_1, partial_2)] == [
        ("FedAvg partial", 20.0),
        ("FedAvg partial", 60.0),
    ]
    none, some = recipe.table(
        made("0", [0.3, 0.5], [1, 1], "warm_up") + made("5", [0.4, 0.3, 0.2, 0.1], [0, 0, 1, 1], "warm_up")
    )
    assert math.isnan(none["before"]) and none["best"] == 50
    assert (some["before"], some["best"], some["last"]) == (40, 40, 10)


def test_the_figure_has_a_line_a_column_and_panel() -> None:
    rows = made("FedAvg full", [0.3, 0.5, 0.4], [1, 1, 2]) + made("FedAvg partial", [0.2, 0.6], [1, 2])
    panels = recipe.figure(rows).axes
    for axes, unit in zip(panels, (1, 2, 3), strict=True):
        full, partial = axes.lines
        assert [list(full.get_xdata()), list(full.get_ydata())] == [[unit, 2 * unit, 3 * unit], [0.3, 0.5, 0.5]]
        assert [list(partial.get_xdata()), list(partial.get_ydata())] == [[unit, 2 * unit], [0.2, 0.6]]
        assert (full.get_linestyle(), partial.get_linestyle()) == ("--", "-")
        assert full.get_color() == partial.get_color()
        assert [full.get_markevery(), partial.get_markevery()] == [[1, 2], [0, 1]]
    legend = panels[-1].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["FedAvg full", "FedAvg partial"]
    orders = made("reverse", [0.3], [1], "order") + made("random", [0.4], [1], "order")
    axes = recipe.figure(orders).axes[-1]
    assert axes.get_legend().get_title().get_text() == "order"
    assert axes.lines[0].get_color() != axes.lines[1].get_color()


def test_the_papers_columns() -> None:
    assert [column.name for column in recipe._columns("hosts", None, None)] == [
        "FedAvg full", "FedAvg partial", "FedProx full", "FedProx partial", "MOON full", "MOON partial",
    ]  # fmt: skip
    assert [column.warm_up for column in recipe._columns("warm_up", None, None)] == [0, 5, 60]
    orders = recipe._columns("order", None, None)
    assert [column.order for column in orders] == ["sequential", "reverse", "random"]
    assert {(column.warm_up, column.once, column.partial) for column in orders} == {(5, True, True)}


POSITIVE = "^`rounds_per_group`, `cycles` and `seeds` must be positive; got "


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rounds_per_group": 0}, POSITIVE + "0, 2 and 1. Give such whole numbers.$"),
        ({"cycles": 0}, POSITIVE + "2, 0 and 1"),
        ({"seeds": 0}, POSITIVE + "2, 2 and 0"),
        ({"table": "host"}, "^`table` must be one of hosts, warm_up, order; got 'host'. Choose one of these.$"),
        ({"columns": ()}, "^`columns` must be at least one; got none. Leave it out for all of the table.$"),
        ({"columns": ("FedAvg",)}, "^`FedAvg` must be a column of the table hosts; got an unknown name. Did you mean"),
        ({"table": "order", "columns": ("revers",)}, "^`revers` must be a column of the table order; .* 'reverse'"),
        ({"table": "warm_up"}, "^`warm_up` must be left out where it is what varies; got 1. Give `columns`.$"),
        (
            {"table": "warm_up", "warm_up": None, "columns": ("-1",)},
            "^`columns` must be numbers of full rounds here; got '-1'. Give such as 0,5,60.$",
        ),
        ({"warm_up": -1}, "^`warm_up` must not be negative; got -1. Give a number of rounds.$"),
        ({"clients": 0}, "^`nodes` must be at least 1; got 0"),
        ({"rows": 1438}, "^`size` must be from 1 to the number of training rows, 1437; got 1438"),
        ({"epochs": 0}, "^`epochs` must be at least 1; got 0"),
        ({"dataset": "cifar10"}, "^`data_dir` must"),
        ({"model": "resnet9"}, "resnet9"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(recipe.fedpart(**SMALL | wrong))
