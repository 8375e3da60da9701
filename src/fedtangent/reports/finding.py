"""What the records say, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedtangent.reports import statistics
from fedtangent.reports.listings import listed
from fedtangent.reports.records import Group, Measure
from fedtangent.reports.table import target_text

_NAMED = 4
_SAME_TASK = {"scale", "separator", "columns"}  # options of data sets whose runs are measured on the same rows


def finding(compared: Sequence[Group], kind: Measure, target: float | None) -> str:
    """The sentence: who reaches the target in how many rounds and at what price, or who comes closest to it."""
    rivals = [group for group in compared if group.sends] or list(compared)
    if not any(record.rounds for group in rivals for record in group.records):
        return "No round has been finished yet."
    if strange := _of_other_data(rivals):
        return (
            f"{listed(strange)} are of different data, so that no accuracy, round or byte of one can be held "
            "against another's."
        )
    if target is None:
        return _capital(f"{_closest(rivals, kind)}.")
    reach = {group.label: statistics.rounds_until(group, target) for group in rivals}
    there = sorted(
        (group for group in rivals if reach[group.label].measured),
        key=lambda group: (reach[group.label].mean, statistics.bytes_until(group, target).mean),
    )
    sure = [group for group in there if reach[group.label].complete]
    if not there:
        return f"{_nobody(rivals)} reaches {_goal(kind, target)}: {_closest(rivals, kind)}."
    first = (sure or there)[0]
    others = [group for group in there if group is not first]
    clauses = [f"{first.label} reaches {_goal(kind, target)} in {_rounds(first, target)}"]
    clauses += [f"{group.label} in {_rounds(group, target, unit=False)}" for group in others[: _NAMED - 1]]
    sentence = ", ".join(clauses)
    if len(others) >= _NAMED:
        sentence += f", and {len(others) - _NAMED + 1} more later"
    late = [group for group in rivals if not reach[group.label].measured]
    if late:
        sentence += f"; {listed([group.label for group in late[:_NAMED]])} {'does' if len(late) == 1 else 'do'} not"
    return f"{sentence}{_price(first, others, target)}."


def _of_other_data(rivals: Sequence[Group]) -> list[str]:
    """The labels of the first group, and of those that were measured on other data; none where all are on the same."""
    first, *others = (group.records[0].manifest for group in rivals)

    def same(one: Mapping[str, Any]) -> bool:
        told, known = one["experiment"], first["experiment"]
        mine, its = told.get("dataset_options") or {}, known.get("dataset_options") or {}
        alike = all(mine[name] == its[name] for name in mine.keys() & its.keys() - _SAME_TASK)
        return alike and told.get("dataset") == known.get("dataset") and one.get("outputs") == first.get("outputs")

    strange = [group.label for group, one in zip(rivals[1:], others, strict=True) if not same(one)]
    return [rivals[0].label, *strange][: _NAMED + 1] if strange else []


def _goal(kind: Measure, target: float) -> str:
    return target_text(target) if kind == "accuracy" else f"a loss of {target_text(target)}"


def _nobody(rivals: Sequence[Group]) -> str:
    return f"{rivals[0].label} never" if len(rivals) == 1 else "No method"


def _closest(rivals: Sequence[Group], kind: Measure) -> str:
    sign = -1 if kind == "accuracy" else 1
    ranked = [(statistics.best(group, kind), group.label) for group in rivals]
    spreads = sorted(((spread, label) for spread, label in ranked if spread.measured), key=lambda x: sign * x[0].mean)
    if not spreads:
        return f"no run has a finite {kind}"
    (top, label), *rest = spreads
    which = "highest" if kind == "accuracy" else "lowest"
    text = f"the {which} {kind} of {label} is {statistics.number_text(top.mean, kind)}"
    return text + (f", that of {rest[0][1]} {statistics.number_text(rest[0][0].mean, kind)}" if rest else "")


def _rounds(group: Group, target: float, unit: bool = True) -> str:
    spread = statistics.rounds_until(group, target)
    count = statistics.count_text(spread.mean)
    text = f"{count} round{'' if count == '1' else 's'}" if unit else count
    return text if spread.complete else f"{text} (with {spread.measured} of {spread.runs} seeds)"


def _price(first: Group, others: Sequence[Group], target: float) -> str:
    mine = statistics.bytes_until(first, target).mean
    prices = {group.label: statistics.bytes_until(group, target).mean for group in others}
    if not prices or mine == 0 or min(prices.values()) == 0:
        return ""
    # Another method says more than the same one with another option.
    foreign = [group.label for group in others if group.experiment["method"] != first.experiment["method"]]
    rival = (foreign or list(prices))[0]
    theirs = prices[rival]
    ratio = mine / theirs
    if ratio >= 1.05:
        price = f"sends {_times(ratio)} the bytes of {rival}"
    elif ratio <= 1 / 1.05:
        price = f"sends {_times(1 / ratio)} fewer bytes than {rival}"
    else:
        price = f"sends about as many bytes as {rival}"
    return f"; on the way there {first.label} {price}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f} times" if ratio >= 10 else f"{ratio:.2g} times"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
