"""Means and deviations over the seeds of an experiment, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedtangent.reports.records import Group, Measure, bytes_to, rounds_to

# Stands where no run has a value.
MISSING = "\N{EN DASH}"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


class Spread(NamedTuple):
    """The mean and the sample deviation of some runs' values.

    Attributes:
        mean: NaN when no run has a value.
        deviation: Zero with a single value.
        measured: How many runs have a value.
        runs: How many runs there are.
    """

    mean: float
    deviation: float
    measured: int
    runs: int

    @property
    def complete(self) -> bool:
        """Whether every run has a value."""
        return self.measured == self.runs


class Series(NamedTuple):
    """A quantity after the rounds that all runs of a group have in common: means and deviations, NaN where missing."""

    mean: np.ndarray
    deviation: np.ndarray


def spread(values: Sequence[float | None]) -> Spread:
    """The mean and deviation of those values that are there and finite."""
    finite = [float(value) for value in values if value is not None and math.isfinite(value)]
    mean = float(np.mean(finite)) if finite else math.nan
    return Spread(mean, float(np.std(finite, ddof=1)) if len(finite) > 1 else 0.0, len(finite), len(values))


def series(group: Group, key: str) -> Series:
    """The curve of `key` over the group's common rounds."""
    common = set.intersection(*({row["round"] for row in record.rounds} for record in group.records))
    values = np.array(
        [[_number(row.get(key)) for row in record.rounds if row["round"] in common] for record in group.records]
    )
    deviation = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros_like(values[0])
    return Series(values.mean(axis=0), deviation)


def final(group: Group, key: str) -> Spread:
    """What `key` is after each run's last round."""
    return spread([record.rounds[-1].get(key) if record.rounds else None for record in group.records])


def best(group: Group, measure: Measure) -> Spread:
    """The best of each run: the highest accuracy, or the lowest loss."""
    choose = max if measure == "accuracy" else min
    tracks = [[_number(row.get(measure)) for row in record.rounds] for record in group.records]
    return spread([choose((x for x in track if math.isfinite(x)), default=None) for track in tracks])


def seconds(group: Group) -> Spread:
    """Each run's mean seconds a round."""
    return spread([float(np.mean([row["seconds"] for row in r.rounds])) if r.rounds else None for r in group.records])


def rounds_until(group: Group, target: float) -> Spread:
    """The rounds each run takes to the target."""
    return spread([rounds_to(record, target) for record in group.records])


def bytes_until(group: Group, target: float) -> Spread:
    """The bytes each run sends until the target."""
    return spread([bytes_to(record, target) for record in group.records])


def common_target(groups: Sequence[Group], measure: Measure) -> float | None:
    """The highest multiple of 0.05 that two methods which send reach with every seed (one, if there is but one).

    Of the best method alone it would compare nothing; of all, one failed run would drag it down. None in a regression,
    whose losses have no natural scale, and when nothing reaches 0.05.
    """
    lows = [
        float(np.min([best(Group(group.label, (record,)), measure).mean for record in group.records]))
        for group in ([group for group in groups if group.sends] or groups)
    ]
    reached = sorted((low for low in lows if math.isfinite(low)), reverse=True)[:2]
    # The tiny addition keeps 0.85, which in binary may be just below seventeen steps, at 0.85.
    steps = math.floor(reached[-1] / 0.05 + 1e-9) if reached and measure == "accuracy" else 0
    return round(0.05 * steps, 2) if steps else None


def number_text(value: float, measure: Measure = "accuracy") -> str:
    """An accuracy with three decimals, a loss with four digits, a dash for what is missing."""
    if not math.isfinite(value):
        return MISSING
    return f"{value:.3f}" if measure == "accuracy" else f"{value:#.4g}"


def count_text(value: float) -> str:
    """A mean count: whole where it is or where it is large, else with one decimal."""
    return f"{value:,.0f}" if value == round(value) or value >= 1000 else f"{value:.1f}"


def bytes_text(value: float) -> str:
    """A number of bytes with three digits and a decimal unit."""
    unit, decimals = _scale(value)
    return f"{value / 1000**unit:,.{decimals}f} {_UNITS[unit]}" if value else "0"


def bytes_tick(value: float) -> str:
    """A round number of bytes, as short as it goes: 10 MB."""
    unit, _ = _scale(value)
    return f"{value / 1000**unit:g} {_UNITS[unit]}"


def time_text(seconds: float) -> str:
    """A time in its two largest units: 0.0123 s, 12.3 s, 4 min 20 s, 5 h 12 min, 3 d 4 h."""
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        rounded = round(seconds / smaller) * smaller
        if rounded >= size:
            rest = rounded % size // smaller
            return f"{rounded // size:,} {unit}{f' {rest} {name}' if rest else ''}"
    raise AssertionError(seconds)


def measure_spread_text(spread: Spread, measure: Measure) -> str:
    """A mean accuracy or loss, with its deviation when there are several runs."""
    return _with_deviation(number_text(spread.mean, measure), number_text(spread.deviation, measure), spread)


def count_spread_text(spread: Spread) -> str:
    """A mean count, with its deviation when there are several runs."""
    return _with_deviation(count_text(spread.mean), f"{spread.deviation:.1f}", spread) if spread.measured else MISSING


def bytes_spread_text(spread: Spread) -> str:
    """A mean number of bytes, with its deviation in the same unit and to the same decimal."""
    if not spread.measured:
        return MISSING
    unit, decimals = _scale(spread.mean)
    mean, _, name = bytes_text(spread.mean).partition(" ")
    return f"{_with_deviation(mean, f'{spread.deviation / 1000**unit:,.{decimals}f}', spread)} {name}".strip()


def work_spread_text(spread: Spread) -> str:
    """A mean number of multiply-adds, with its deviation, as 4.38e12."""
    mean, deviation = (re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", f"{value:.2e}") for value in (spread.mean, spread.deviation))
    return _with_deviation(mean, deviation, spread) if spread.measured else MISSING


def seconds_spread_text(spread: Spread) -> str:
    """A mean time with three digits, with its deviation to the same decimal; from ten minutes on in its own units."""
    if not spread.measured:
        return MISSING
    if spread.mean >= 600:
        return _with_deviation(time_text(spread.mean), time_text(spread.deviation), spread)
    decimals = _decimals(spread.mean)
    return _with_deviation(f"{spread.mean:.{decimals}f}", f"{spread.deviation:.{decimals}f}", spread)


def _with_deviation(mean: str, deviation: str, spread: Spread) -> str:
    return f"{mean} ± {deviation}" if spread.measured > 1 and spread.deviation > 0 else mean


def _scale(value: float) -> tuple[int, int]:
    """The unit and the decimals that write a number of bytes with three digits."""
    unit = 0
    # What rounds to a thousand of a unit is one of the next.
    while round(value / 1000**unit) >= 1000 and unit < len(_UNITS) - 1:
        unit += 1
    return unit, _decimals(value / 1000**unit) if unit else 0


def _decimals(value: float) -> int:
    # 99.96 is written as 100, which has no decimals.
    value = float(f"{value:.3g}")
    return max(0, 2 - math.floor(math.log10(value))) if value >= 1 else 3 if value >= 0.01 else 5


def _number(value: float | None) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan
