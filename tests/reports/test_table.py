"""The table's numbers, its best cells and its notes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fedtangent.reports import records, table
from tests.reports.folders import Run


def shown(runs: list[records.Record], target: float | None = None) -> str:
    text = io.StringIO()
    Console(file=text, width=160).print(table.table(runs, target))
    return text.getvalue()


def test_the_table_holds_the_numbers_of_the_records(run: Run) -> None:
    text = shown([run(accuracies=[0.31, 0.86, 0.84], round_bytes=2_500_000)], 0.85)
    row = next(line for line in text.splitlines() if "dfedavg" in line)
    cells = [cell.strip() for cell in row.strip("│ ").split("│")]
    assert cells[:6] == ["dfedavg", "0.840", "0.860", "2", "5.00 MB", "7.50 MB"]
    assert 0.4 <= float(cells[6]) <= 0.45
    assert "Rounds to 0.85" in text and "Bytes to 0.85" in text


def test_multiply_adds_are_told_where_a_record_has_them(run: Run) -> None:
    assert "Multiply-adds" not in shown([run(rounds=2)])
    runs = [run(rounds=2), run("ntkdfl", rounds=2, round_work=2_190_000_000_000)]
    assert "Multiply-adds in all: dfedavg \N{EN DASH}, ntkdfl 4.38e12." in shown(runs)
    columns = {column.title: column.cells for column in table.columns(records.groups(runs), "accuracy", None)}
    assert columns["Multiply-adds"] == ["\N{EN DASH}", "4.38e12"]
    seeds = [run(seed=s, rounds=2, round_work=2_180_000_000_000 + s * 2 * 10**10) for s in (0, 1)]
    assert "dfedavg 4.38e12 ± 2.83e10." in shown(seeds)


def test_seeds_are_a_mean_and_a_deviation(run: Run) -> None:
    text = shown([run(seed=0, accuracies=[0.5, 0.86]), run(seed=1, accuracies=[0.86, 0.88])], 0.85)
    assert "0.870 ± 0.014" in text and "1.5 ± 0.7" in text
    assert "Mean ± one standard deviation over 2 seeds." in text


def test_seeds_that_miss_the_target_are_counted(run: Run) -> None:
    text = shown([run(seed=0, accuracies=[0.5, 0.86]), run(seed=1, accuracies=[0.5, 0.6])], 0.85)
    assert "2 (1 of 2 seeds)" in text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_mean_without_a_seed_that_diverged_says_so(run: Run, value: float | None) -> None:
    runs = [run(seed=seed, accuracies=[0.5, 0.6]) for seed in (0, 1)]
    assert "of 2 seeds" not in shown(runs)
    runs[1].rounds[-1]["accuracy"] = value
    assert "0.600 (1 of 2 seeds)" in shown(runs)


def test_uneven_numbers_of_seeds_are_told(run: Run) -> None:
    assert "over the seeds: dfedavg 2, ntkdfl 1." in shown([run(seed=0), run(seed=1), run("ntkdfl")])


def test_a_run_that_stopped_early_is_told(run: Run) -> None:
    assert "dfedavg, seed 7: 2 of 30 rounds are done." in shown([run(seed=7, rounds=2, planned=30)])


def test_who_was_present_is_told_where_a_record_has_it(run: Run) -> None:
    faulty = run("ntkdfl", rounds=3)
    for row, present, links in zip(faulty.rounds, (7, 8, 3), (12, 17, 2), strict=True):
        row |= {"present": present, "links": links, "skipped": present < 5}
    text = shown([run(rounds=2), faulty])
    assert (
        "ntkdfl: 6 of 10 nodes were present in a mean round, and 10.3 links held; 1 of 3 rounds were skipped." in text
    )
    assert text.count("present") == 1
    server = run("fedavg", rounds=2)
    for row in server.rounds:
        row |= {"present": 9, "skipped": False}
    assert "fedavg: 9 of 10 nodes were present in a mean round." in shown([server])


def test_without_a_target_the_common_one_is_taken(run: Run) -> None:
    assert "Rounds to 0.6" in shown([run(accuracies=[0.63]), run("ntkdfl", accuracies=[0.71])])


def test_without_a_round_every_cell_is_a_dash(run: Run) -> None:
    record = run(rounds=3)
    record.rounds.clear()
    assert shown([record]).count("\N{EN DASH}") == 4


def test_a_regression_shows_losses_and_no_target_unless_asked(run: Run) -> None:
    text = shown([run(kind="loss")])
    assert "Final loss" in text and "Lowest" in text and "Rounds to" not in text
    assert "Rounds to 1.2" in shown([run(kind="loss")], 1.2)


def test_the_best_are_marked_among_the_methods_that_send(run: Run) -> None:
    runs = [
        run("central", accuracies=[0.97, 0.98]),
        run("ntkdfl", accuracies=[0.86, 0.9], round_bytes=900),
        run("dfedavg", accuracies=[0.5, 0.86], round_bytes=100),
    ]
    columns = {column.title: column.best for column in table.columns(records.groups(runs), "accuracy", 0.85)}
    assert columns["Final accuracy"] == columns["Rounds to 0.85"] == {1}
    assert columns["Bytes to 0.85"] == {2}
    assert columns["Bytes in all"] == frozenset()


def test_equals_are_both_the_best_and_one_alone_is_not(run: Run) -> None:
    both = [run("ntkdfl", accuracies=[0.86]), run("dfedavg", accuracies=[0.86])]
    assert table.columns(records.groups(both), "accuracy", None)[0].best == {0, 1}
    assert table.columns(records.groups(both[:1]), "accuracy", None)[0].best == frozenset()


def test_markup_in_a_name_is_text(run: Run) -> None:
    assert "[red]mine[/red]" in shown([run("[red]mine[/red]".replace("/", ":"))]).replace(":", "/")
    found = records.groups([run("<b>mine", rounds=2)])
    assert "&lt;b&gt;mine" in table.html(found, "accuracy", None, ["red"])


@pytest.mark.parametrize("name", ["[/x]", "[link=http://x]", "[bold", "[[/]]"])
def test_brackets_in_a_name_are_text_in_the_remarks_too(run: Run, name: str) -> None:
    runs = [run("m", experiment={"method": name}, rounds=2, planned=30, round_work=10**9)]
    told = shown(runs, 0.5)
    assert f"Multiply-adds in all: {name} 2.00e9." in told and f"{name}, seed 0: 2 of 30 rounds" in told


@pytest.mark.parametrize("width", [24, 40, 60])
def test_a_narrow_terminal_leaves_nothing_out(run: Run, width: int) -> None:
    text = io.StringIO()
    Console(file=text, width=width).print(table.table([run(f"methodical{i}", rounds=2) for i in range(9)], 0.5))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.getvalue()


@pytest.mark.parametrize("target", [0.0, -0.2, 1.01, 85, float("nan"), float("inf")])
def test_a_target_is_a_fraction(run: Run, target: float) -> None:
    with pytest.raises(ValueError, match=r"`target` must be above 0 and at most 1; got .*\. Give an accuracy as a"):
        table.table([run(rounds=2)], target)


def test_a_target_of_a_regression_is_positive(run: Run) -> None:
    with pytest.raises(ValueError, match=r"`target` must be above 0; got -1\. Give a loss\."):
        table.table([run(rounds=2, kind="loss")], -1)
