"""Means and deviations over seeds, the common target, and numbers as text."""

from __future__ import annotations

import math
import statistics as referee

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtangent.reports import records, statistics
from tests.reports.folders import Run


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_the_deviation_is_that_of_a_sample(values: list[float]) -> None:
    found = statistics.spread(values)
    assert found.mean == pytest.approx(referee.mean(values), abs=1e-6)
    assert found.deviation == pytest.approx(referee.stdev(values), abs=1e-6)
    assert found.complete


def test_missing_values_are_counted_not_averaged() -> None:
    found = statistics.spread([3, None, 5, math.inf])
    assert (found.mean, found.measured, found.runs, found.complete) == (4, 2, 4, False)
    assert math.isnan(statistics.spread([None]).mean)


def test_a_series_covers_the_rounds_that_all_seeds_have(run: Run) -> None:
    (group,) = records.groups(
        [run(accuracies=[0.3, 0.5, 0.7], planned=9), run(seed=1, accuracies=[0.5, 0.6], planned=9)]
    )
    found = statistics.series(group, "accuracy")
    np.testing.assert_allclose(found.mean, [0.4, 0.55])
    np.testing.assert_allclose(found.deviation, [0.2 / math.sqrt(2), 0.1 / math.sqrt(2)])


def test_the_best_of_a_regression_is_its_lowest_loss(run: Run) -> None:
    record = run(kind="loss", rounds=20)
    (group,) = records.groups([record])
    assert statistics.best(group, "loss").mean == min(row["loss"] for row in record.rounds)


@pytest.mark.parametrize(
    ("tops", "target"),
    [
        ({"ntkdfl": 0.93, "dfedavg": 0.87, "dpsgd": 0.31, "central": 0.99}, 0.85),
        ({"ntkdfl": 0.93, "dfedavg": 0.85}, 0.85),
        ({"ntkdfl": 0.93, "local": 0.41}, 0.9),
        ({"local": 0.41}, 0.4),
        ({"ntkdfl": 0.04}, None),
        ({"ntkdfl": math.nan}, None),
    ],
)
def test_the_common_target_is_what_two_senders_reach(run: Run, tops: dict[str, float], target: float | None) -> None:
    found = records.groups([run(method, accuracies=[0.02, top]) for method, top in tops.items()])
    assert statistics.common_target(found, "accuracy") == target


def test_the_common_target_counts_the_worst_seed_and_no_seed_that_failed(run: Run) -> None:
    found = records.groups([run(seed=seed, accuracies=[top]) for seed, top in enumerate((0.93, 0.78))])
    assert statistics.common_target(found, "accuracy") == 0.75
    found = records.groups([run(seed=seed, accuracies=[top]) for seed, top in enumerate((0.93, math.nan))])
    assert statistics.common_target(found, "accuracy") is None


def test_a_regression_has_no_common_target(run: Run) -> None:
    assert statistics.common_target(records.groups([run(kind="loss")]), "loss") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (29, "29 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (999_600, "1.00 MB"),
        (99_960, "100 kB"),
        (26_170_000, "26.2 MB"),
        (264_000_000, "264 MB"),
        (2.2e9, "2.20 GB"),
        (9.4e11, "940 GB"),
        (3e18, "3,000 PB"),
    ],
)
def test_bytes_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert statistics.bytes_text(value) == text


def test_ticks_are_short() -> None:
    assert [statistics.bytes_tick(value) for value in (1e6, 5e5, 1e9)] == ["1 MB", "500 kB", "1 GB"]


def test_spreads_share_their_unit_and_decimals() -> None:
    assert statistics.bytes_spread_text(statistics.spread([25_400_000, 26_940_000])) == "26.2 ± 1.1 MB"
    assert statistics.count_spread_text(statistics.spread([4, 5, 4])) == "4.3 ± 0.6"
    assert statistics.count_spread_text(statistics.spread([6, 6])) == "6"
    assert statistics.measure_spread_text(statistics.spread([0.81, 0.83]), "accuracy") == "0.820 ± 0.014"
    assert statistics.measure_spread_text(statistics.spread([0.4]), "loss") == "0.4000"
    assert statistics.seconds_spread_text(statistics.spread([12.0, 13.0])) == "12.5 ± 0.7"
    assert statistics.seconds_spread_text(statistics.spread([0.0042])) == "0.00420"


def test_what_is_missing_is_a_dash() -> None:
    nothing = statistics.spread([None])
    assert statistics.bytes_spread_text(nothing) == statistics.MISSING
    assert statistics.count_spread_text(nothing) == statistics.MISSING
    assert statistics.seconds_spread_text(nothing) == statistics.MISSING
    assert statistics.measure_spread_text(nothing, "accuracy") == statistics.MISSING


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01234, "0.0123 s"), (12.34, "12.3 s"), (59.9, "59.9 s"), (59.96, "1 min"), (61, "1 min 1 s"),
        (3599.6, "1 h"), (15_700, "4 h 22 min"), (86_399, "1 d"), (273_600, "3 d 4 h"), (9e9, "104,166 d 16 h"),
    ],
)  # fmt: skip
def test_times_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert statistics.time_text(seconds) == text


def test_long_seconds_are_hours_and_minutes() -> None:
    assert statistics.seconds_spread_text(statistics.spread([15_700.0])) == "4 h 22 min"
    assert (
        statistics.seconds_spread_text(statistics.spread([15_000.0, 16_400.0]))
        == "4 h 22 min \N{PLUS-MINUS SIGN} 16 min 30 s"
    )
    assert statistics.seconds_spread_text(statistics.spread([599.0])) == "599"
