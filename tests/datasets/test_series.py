"""Time series: windows by hand, and by a literal loop over sites and times."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedtangent import cli
from fedtangent.datasets.series import series

pytest.importorskip("pyarrow", reason="needs fedtangent[table]")


def written(folder: Path, rows: list[tuple[Any, ...]], names: str = "meter,hour,load,warm,state") -> Path:
    path = folder / "a series.csv"
    path.write_text("\n".join([names, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def rows_of(sizes: dict[str, int], seed: int = 5) -> list[tuple[Any, ...]]:
    """Times of some meters, all mixed."""
    rng = np.random.default_rng(seed)
    rows = [
        (site, f"2024-01-{hour + 1:02}", round(rng.normal(), 4), round(rng.normal(), 4), int(rng.integers(3)))
        for site, count in sizes.items()
        for hour in range(count)
    ]
    return [rows[place] for place in rng.permutation(len(rows))]


def test_windows_by_hand(tmp_path: Path) -> None:
    path = written(tmp_path, [("a", hour, 10 * hour, hour + 0.5, 0) for hour in range(6)])
    given: dict[str, Any] = {"label": "load", "regression": True, "leave_out": ("meter", "hour", "state")}
    found = series(path, window=2, horizon=2, test_share=0.34, **given)
    assert found.x_train.tolist() == [[[0, 10], [0.5, 1.5]]] and found.y_train.tolist() == [[30]]
    assert found.x_test.tolist() == [[[10, 20], [1.5, 2.5]], [[20, 30], [2.5, 3.5]]]
    assert found.y_test.tolist() == [[40], [50]]
    now = series(path, window=3, horizon=0, test_share=0.34, **given)
    assert now.x_train.tolist() == [[[0.5, 1.5, 2.5]], [[1.5, 2.5, 3.5]]]  # the answer is no channel
    assert now.y_train.tolist() == [[20], [30]]


@pytest.mark.parametrize(("window", "horizon"), [(1, 1), (3, 2), (4, 0)])
def test_windows_are_those_of_a_loop(window: int, horizon: int, tmp_path: Path) -> None:
    rows = rows_of({"c": 17, "a": 11, "b": 8})
    path = written(tmp_path, rows)
    found = series(path, label="state", window=window, horizon=horizon, site="meter", time="hour", test_share=0.3)
    train: list[Any] = []
    test: list[Any] = []
    for number, site in enumerate("abc"):
        own = sorted(row for row in rows if row[0] == site)
        cut = len(own) - round(0.3 * len(own))
        for t in range(window + horizon - 1, len(own)):
            x = [[row[place] for row in own[t - horizon - window + 1 : t - horizon + 1]] for place in (2, 3, 4)]
            (train if t < cut else test).append((x[: 2 if horizon == 0 else 3], own[t][4], number))
    torch.testing.assert_close(found.x_train, torch.tensor([x for x, _, _ in train]))
    torch.testing.assert_close(found.x_test, torch.tensor([x for x, _, _ in test]))
    assert found.y_train.tolist() == [y for _, y, _ in train] and found.y_test.tolist() == [y for _, y, _ in test]
    assert found.site_train is not None and found.site_train.tolist() == [site for *_, site in train]


def test_nothing_of_the_test_times_is_in_the_training_rows(tmp_path: Path) -> None:
    rows = [("a", hour, hour, 0.0 if hour < 8 else 1e6, 0) for hour in range(10)]
    given: dict[str, Any] = {"label": "load", "window": 2, "regression": True, "leave_out": ("meter", "state")}
    found = series(written(tmp_path, rows), time="hour", scale=True, **given)
    assert found.x_train.abs().max() < 10 and found.x_test.max() > 1e5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 0}, r"^`window` must be at least 1; got 0"),
        ({"horizon": -1}, r"^`horizon` must be at least 0; got -1"),
        ({"test_share": 0}, r"^`test_share` must be above 0 and below 1; got 0"),
        (
            {"window": 7},
            r"^`window` must leave every site a window to train on, .*; got 8 times at site b\. Take a shorter",
        ),
        (
            {"window": 18, "site": None, "time": None},
            r"^`window` must leave every site a window to train on, .*; got 19 times\. Take a shorter",
        ),
        ({"time": "minute"}, r"^`time` must name a column of the table; got 'minute'"),
        ({"leave_out": ("minute",)}, r"^`leave_out` must name a column of the table; got 'minute'"),
        ({"label": "load"}, r"^`label` must be a column of texts or whole numbers, .*Use --regression"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, rows_of({"a": 11, "b": 8}))
    with pytest.raises(ValueError, match=message):
        series(path, **({"label": "state", "window": 2, "site": "meter", "time": "hour"} | change))


def test_a_time_that_is_missing(tmp_path: Path) -> None:
    path = written(tmp_path, [("a", "", 1, 1, 0), ("a", "2", 2, 1, 1)])
    with pytest.raises(ValueError, match=r"^`time` must be known of every row; got none somewhere in column 'hour'"):
        series(path, label="state", window=1, time="hour")


@pytest.mark.parametrize(
    "times",
    [
        ["2023-12-31", "2024-01-01"],
        ["2024-01-31 23:00:00", "2024-02-01 00:00:00.5"],
        ["2024-01-31T23:00:00+00:00", "2024-02-01T00:00:00Z"],
        ["09:59", "10:00"],
        ["2023Q4", "2024Q1"],
        ["9", "10"],
    ],
)
def test_times_are_in_their_order(times: list[str], tmp_path: Path) -> None:
    path = written(tmp_path, [("a", times[1], 1, 1, 1), ("a", times[0], 0, 0, 0)])
    found = series(path, label="load", regression=True, window=1, horizon=0, time="hour", test_share=0.5)
    assert found.y_train.tolist() == [[0]] and found.y_test.tolist() == [[1]]


@pytest.mark.parametrize("text", ["31.01.2024", "1/2/2024", "2024-1-9", "9:00", "11:00 AM", "Monday"])
def test_texts_that_are_not_sorted_like_times_are_refused(text: str, tmp_path: Path) -> None:
    path = written(tmp_path, [("a", "2024-01-01", 1, 1, 0), ("a", text, 2, 1, 1)])
    with pytest.raises(ValueError, match=rf"^`time` must be numbers, or texts .*; got '{text}' in column 'hour'\. "):
        series(path, label="state", window=1, time="hour")


@pytest.mark.parametrize("zones", [("+01:00", "+02:00"), ("", "Z"), ("+0100", "")])
def test_times_of_several_zones_are_refused(zones: tuple[str, str], tmp_path: Path) -> None:
    path = written(tmp_path, [("a", f"2024-10-27T02:{k}0:00{zones[k % 2]}", k, 1, 0) for k in range(4)])
    with pytest.raises(
        ValueError, match=r"^`time` must be told in one time zone; got '.*' and '.*' in column 'hour'\. "
    ):
        series(path, label="state", window=1, time="hour")


def test_a_time_comes_once_at_a_site(tmp_path: Path) -> None:
    """Without a column of sites the times of several series would be mixed, window for window."""
    rows = rows_of({"c": 9, "a": 8})
    path = written(tmp_path, rows)
    given: dict[str, Any] = {"label": "state", "window": 2, "time": "hour"}
    assert series(path, site="meter", **given).x_train.shape[0] > 0
    with pytest.raises(
        ValueError, match=r"^`time` must be another in every row of a site; got 2024-01-01 twice\. Name"
    ):
        series(path, **given)
    path = written(tmp_path, [(site, float(hour), 1, 1, 0) for site in "ab" for hour in (*range(8), 3)])
    with pytest.raises(ValueError, match=r"^`time` must be another in every row of a site; got 3.0 twice at a\. Name"):
        series(path, site="meter", **given)


def test_from_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, rows_of({"a": 12, "b": 19, "c": 15}))
    words = ["--data-dir", str(path), "--label", "load", "--regression", "--site", "meter", "--time", "hour"]
    words += ["--window", "3", "--partition", "natural", "--rounds", "1"]
    assert cli.main(["run", "fedavg", "--dataset", "series", *words]) == 0
