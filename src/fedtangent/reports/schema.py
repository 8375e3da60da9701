"""What a manifest and a round must hold to be reported: files from elsewhere are checked here, and nowhere else.

Whatever passes can be grouped, drawn and printed; a text holds no character that would steer a terminal or turn the
direction of what is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

_NAMES = ("host", "dataset", "augment", "model", "loss", "partition", "topology", "fault")
_ACCURACIES = ("accuracy", "mean_node_accuracy", "worst_tenth_accuracy")
_LISTS = ("node_accuracy", "class_accuracy")
_MEASURED, _MEASURED_LISTS, _MOST_MEASURES = ("mean", "deviation", "worst_tenth", "all"), ("nodes", "classes"), 50
_COUNTED = ("sent_bytes", "seconds")
_PRESENT = ("present", "links")
# A larger loss counts as infinite: squares and sums of it would be. No amount is as large.
_MOST = 1e100
_MOST_NODES, _LONGEST_NAME, _LEVELS = 10**6, 200, 20
_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text, with a mark in place of each control character, turn of direction and half of a character."""
    return _STEERING.sub("\N{REPLACEMENT CHARACTER}", text)


def manifest(text: bytes) -> dict[str, Any]:
    """A manifest, checked, its texts `printable`.

    Raises:
        ValueError: It is none; the message is the rule that it breaks and what it holds instead, to follow "must".
    """
    told = _json(text)
    experiment = told.get("experiment") if isinstance(told, dict) else None
    if not isinstance(experiment, dict) or not _is_name(experiment.get("method")):
        raise ValueError("be JSON with an experiment and its method; it is not")

    def check(rule: str, value: Any, holds: Callable[[Any], bool]) -> None:
        if value is not None and not holds(value):
            got = json.dumps(value)
            raise ValueError(f"hold {rule}; got {got if len(got) <= 60 else f'{got[:60]}...'}")

    for key in _NAMES:
        check(f"{key} as a name or null", experiment.get(key), _is_name)
    for key in ("options", *(f"{name}_options" for name in _NAMES)):
        check(f"{key} as an object", experiment.get(key), lambda value: isinstance(value, dict))
    for key, least, most in (("seed", 0, 2**63 - 1), ("nodes", 1, _MOST_NODES), ("rounds", 1, 2**63 - 1)):
        rule = f"{key} as an integer from {least} to {most}"
        check(rule, experiment.get(key), partial(_is_integer, least=least, most=most))
    nodes = experiment.get("nodes")
    check("exposure as a name or null", told.get("exposure"), _is_name)
    check("labels as null or every node's counts of the classes", told.get("labels"), lambda v: _counts(v, nodes))
    check("edges as null or pairs of different nodes", told.get("edges"), lambda value: _pairs(value, nodes))
    return dict(told)


def row(text: bytes) -> dict[str, Any]:
    """A round's entry, checked.

    Raises:
        ValueError: It is none; the message is the rule that it breaks, to follow "must be".
    """
    entry = _json(text)
    if not isinstance(entry, dict):
        raise ValueError("a JSON object")
    if not (_is_integer(entry.get("round"), -(2**63), 2**63) and all(_is_amount(entry.get(key)) for key in _COUNTED)):
        raise ValueError("an object with the numbers round, sent_bytes, seconds, none negative or infinite")
    if not all(entry.get(key) is None or _is_share(entry[key]) for key in _ACCURACIES):
        raise ValueError(f"an object whose {', '.join(_ACCURACIES)} are numbers from 0 to 1 or null")
    for key in _LISTS:
        if not (entry.get(key) is None or _are_shares(entry[key])):
            raise ValueError(f"an object whose {key} is null, or a list of numbers from 0 to 1 and nulls")
    if not (entry.get("loss") is None or _is_number(entry["loss"])):
        raise ValueError("an object whose loss is a number or null")
    if not (entry.get("multiply_adds") is None or _is_amount(entry["multiply_adds"])):
        raise ValueError("an object whose multiply_adds are a number or null, not negative or infinite")
    if not all(entry.get(key) is None or _is_integer(entry[key], 0, _MOST_NODES**2) for key in _PRESENT):
        raise ValueError(f"an object whose {', '.join(_PRESENT)} are counts or null")
    if not (entry.get("skipped") is None or isinstance(entry["skipped"], bool)):
        raise ValueError("an object whose skipped is true, false or null")
    if not (entry.get("measures") is None or _are_measures(entry["measures"])):
        raise ValueError(
            "an object whose measures are null, or by name null or what own and aggregate models are worth"
        )
    if entry.get("loss") is not None and abs(entry["loss"]) > _MOST:
        entry["loss"] = math.inf
    return entry


def _are_measures(value: object) -> bool:
    """Whether it is, by name and by model, null or numbers and nulls, alone and in lists."""
    if not isinstance(value, dict) or len(value) > _MOST_MEASURES or not all(map(_is_name, value)):
        return False
    if not all(isinstance(models, dict) and {*models} <= {"own", "aggregate"} for models in value.values()):
        return False
    told = [own for models in value.values() for own in models.values() if own is not None]
    if not all(isinstance(own, dict) and {*own} <= {*_MEASURED, *_MEASURED_LISTS} for own in told):
        return False
    lists = [own[key] for own in told for key in _MEASURED_LISTS if own.get(key) is not None]
    if not all(isinstance(one, list) and len(one) <= _MOST_NODES for one in lists):
        return False
    numbers = [*(part for one in lists for part in one), *(own.get(key) for own in told for key in _MEASURED)]
    return all(part is None or (_is_number(part) and abs(part) <= _MOST) for part in numbers)


def _json(text: bytes) -> Any:
    """What a JSON file holds, its texts `printable`; None where it is none, or one of too many levels."""
    try:
        return _printable(json.loads(text), _LEVELS)
    except (ValueError, RecursionError):
        return None


def _printable(tree: Any, levels: int) -> Any:
    if not levels:
        raise RecursionError
    if isinstance(tree, str):
        return printable(tree)
    if isinstance(tree, list):
        return [_printable(part, levels - 1) for part in tree]
    if isinstance(tree, dict):
        return {printable(key): _printable(part, levels - 1) for key, part in tree.items()}
    return tree


def _counts(labels: Any, nodes: int | None) -> bool:
    if not isinstance(labels, list) or not labels or not all(isinstance(own, list) and own for own in labels):
        return False
    same = len({len(own) for own in labels}) == 1 and nodes in (None, len(labels))
    return same and all(_is_integer(count, 0, 2**53) for own in labels for count in own)


def _pairs(edges: Any, nodes: int | None) -> bool:
    if not isinstance(edges, list) or nodes is None:
        return False
    return all(
        isinstance(edge, list)
        and len(edge) == 2
        and all(_is_integer(end, 0, nodes - 1) for end in edge)
        and edge[0] != edge[1]
        for edge in edges
    )


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold; NaN and infinity are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, float) or abs(value) < 2**1023


def _is_amount(value: object) -> bool:
    return _is_number(value) and 0 <= value <= _MOST  # type: ignore[operator]


def _is_share(value: object) -> bool:
    return _is_number(value) and (math.isnan(value) or 0 <= value <= 1)  # type: ignore[arg-type,operator]


def _are_shares(value: object) -> bool:
    return (
        isinstance(value, list) and len(value) <= _MOST_NODES and all(part is None or _is_share(part) for part in value)
    )
