"""series: windows of a long table, whose rows are the times of one series, or of one a site."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedtangent.datasets import _arrow, _labels
from fedtangent.datasets._check import checked
from fedtangent.datasets._columns import agreed, as_numbers, in_columns, is_text
from fedtangent.errors import SettingError
from fedtangent.extras import imported
from fedtangent.shard import Dataset

# A text that is sorted like the time that it tells: a year or an hour first, no 9 where there may be a 10, no noon.
_SORTED = re.compile(r"(?!.*[-/: T]\d(?!\d))(?!.*[AaPp][Mm])(\d{4}\D|\d\d:\d\d).*")
_ZONE = re.compile(r"\d:\d\d[\d:.,]*\s*([+-]\d\d:?\d\d|Z|)$")  # of a time, at its end


def series(
    data_dir: str | Path | None = None,
    *,
    label: str,
    window: int,
    horizon: int = 1,
    site: str | None = None,
    time: str | None = None,
    regression: bool = False,
    test_share: float = 0.2,
    categorical: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    columns: str | Path | None = None,
    scale: bool = False,
    separator: str | None = None,
) -> Dataset:
    """Windows (rows, channels, window) of consecutive times of one site, each with the label some times after its end.

    With horizon h and window n, times t - n - h + 1 to t - h are the inputs of one row, and the label at t is its
    answer. The channels are the table's columns, as `table` encodes them; the label's own past is one of them, but with
    horizon 0, where it would be the answer. The last times of every site are for testing: a window is tested on if its
    answer is among them, and no training row sees any of them. No window reaches from one site to another.

    Args:
        data_dir: The path of the file: .csv, .tsv or .parquet, a row a time.
        label: The column to predict: texts or whole numbers, one a class, or with --regression a number.
        window: Times of a row's inputs.
        horizon: How many times after the window's end the label is; 0 is that of the window's last time.
        site: The column that tells which series a row is of, for the partition natural; none is one series.
        time: The column that rows are sorted by, site by site: numbers, or times such as 2024-05-31 09:00; none keeps
            the file's order.
        regression: Predict the number in the label's column.
        test_share: The share of every site's last times to test on.
        categorical: Columns whose numbers are names of categories, with commas between them.
        leave_out: Columns that the model is not to see.
        columns: A JSON file of columns and classes, as of the data set table.
        scale: Subtract every number's mean over the training times of all sites, and divide by their deviation.
        separator: Between the cells of a CSV; none is a comma, or a tab in a .tsv.

    Raises:
        ValueError: What cannot be read, or a site with too few times.
    """
    for name, value, least in (("window", window, 1), ("horizon", horizon, 0)):
        if not least <= value < 2**31:
            raise SettingError(f"`{name}` must be at least {least}; got {value}. Give a number of times.")
    if not 0 < test_share < 1:
        raise SettingError(f"`test_share` must be above 0 and below 1; got {test_share}. Use 0.2.")
    rows = _arrow.read(data_dir, "data_dir", separator)
    for argument, names in (("categorical", categorical), ("leave_out", leave_out)):
        for name in names:
            _arrow.column(rows, name, argument)
    rows, where = _sorted(rows, site, time)
    given = None if columns is None else agreed(columns)
    known = _labels.classes_of(rows, label, regression, given)
    y = _labels.targets(rows, label) if regression else _labels.numbered(rows, label, known)
    called = None if site is None else rows.column(site)
    test, ends = _ends(where, called, window, horizon, test_share)
    apart = {site, time, *leave_out} | ({label} if horizon == 0 else set())
    features = [name for name in rows.column_names if name not in apart]
    x_of = in_columns(features, categorical, given, scale)
    x_train, x_test, schema = x_of(rows.filter(~test), rows.filter(test), known)
    x = np.zeros((rows.num_rows, x_train.shape[1]), dtype=np.float32)
    x[~test], x[test] = x_train.numpy(), x_test.numpy()
    seen = np.lib.stride_tricks.sliding_window_view(x, window, axis=0)  # (times - window + 1, channels, window)

    def part(chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(seen[chosen - horizon - window + 1].copy()), torch.from_numpy(y[chosen])

    (xs, ys), (xt, yt) = part(ends[~test[ends]]), part(ends[test[ends]])
    assert data_dir is not None
    name, sites = Path(data_dir).name.partition(".")[0], torch.from_numpy(where[ends[~test[ends]]])
    return checked(Dataset(name, xs, ys, xt, yt, len(known), None if site is None else sites, f"{schema}-{horizon}"))


def _sorted(rows: Any, site: str | None, time: str | None) -> tuple[Any, np.ndarray]:
    """The rows, site after site, each in the order of time; and their sites' numbers."""
    compute = imported("pyarrow.compute", "table", "to read tables")
    where = np.zeros(rows.num_rows, dtype=np.int64) if site is None else _labels.sites(rows, site)
    order = np.arange(rows.num_rows)
    if time is not None:
        values = _arrow.column(rows, time, "time")
        numbers = as_numbers(values)
        if values.null_count or (numbers is not None and np.isnan(numbers).any()):
            raise SettingError(f"`time` must be known of every row; got none somewhere in column {time!r}. Drop it.")
        texts = values.to_pylist() if numbers is None and is_text(values) else []
        if strange := next((text for text in texts if not _SORTED.fullmatch(text)), None):
            raise SettingError(
                f"`time` must be numbers, or texts that are sorted like times, such as 2024-05-31 09:00; got "
                f"{strange!r} in column {time!r}. Write them so."
            )
        found = [match[1].replace(":", "") for text in texts if (match := _ZONE.search(text))]
        if len(zones := {"+0000" if zone == "Z" else zone for zone in found}) > 1:
            raise SettingError(
                f"`time` must be told in one time zone; got {' and '.join(sorted(map(repr, zones))[:2])} in column "
                f"{time!r}. Write all in UTC."
            )
        order = compute.sort_indices(values).to_numpy() if numbers is None else np.argsort(numbers, kind="stable")
    order = order[np.argsort(where[order], kind="stable")]
    rows, where = rows.take(order), where[order]
    if time is not None:
        told = np.array(rows.column(time).to_pylist(), dtype=object) if numbers is None else numbers[order]
        twice = np.flatnonzero((where[1:] == where[:-1]) & (told[1:] == told[:-1]))
        if len(twice):
            of = "" if site is None else f" at {rows.column(site)[int(twice[0])]}"
            raise SettingError(
                f"`time` must be another in every row of a site; got {told[twice[0]]} twice{of}. Name the column that "
                "tells the series apart by --site, or drop a row."
            )
    return rows, where


def _ends(where: np.ndarray, called: Any, window: int, horizon: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Which times are for testing, and the times of the answers, of whose windows every one lies within its site."""
    test, ends = np.zeros(len(where), dtype=bool), []
    for number in np.unique(where):
        times = np.flatnonzero(where == number)
        cut = len(times) - max(1, round(share * len(times)))
        first = window + horizon - 1
        if cut <= first:
            of = "" if called is None else f" at site {called[int(times[0])]}"
            raise SettingError(
                f"`window` must leave every site a window to train on, with {window} times and the answer {horizon} "
                f"later before its last {len(times) - cut} times; got {len(times)} times{of}. Take a "
                "shorter window, or leave that site's rows out."
            )
        test[times[cut:]] = True
        ends.append(times[first:])
    return test, np.concatenate(ends)
