"""Conformance: whether a method is written as the contract asks, so that any engine and any transport can run it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.run import Result, run
from fedtangent.experiments.setup import setup
from fedtangent.federation import Fault, Missing
from fedtangent.transports.threads import threads

NODES, ROUNDS = 6, 2
_TOLERANCE = 1e-9


def check(experiment: Experiment) -> list[str]:
    """What was tried, one line each: the method twice, by both engines, with a thread a node, and with a node absent.

    Args:
        experiment: What to try the method on; engine, type and faults are chosen here.

    Raises:
        ValueError: The method breaks one of the laws; the sentence says which.
    """
    asked = replace(experiment, engine="sequential", dtype="float64", fault=None, fault_options={})
    built = setup(asked)
    name, nodes = built.method.name, len(built.data)
    first = run(built)
    _same(
        first, run(setup(asked)), 0.0, f"`{name}` must give the same record twice", "Draw with fleet.draw or fleet.rng."
    )
    _same(
        first,
        _tried(lambda: run(setup(replace(asked, engine="vectorized"))), f"`{name}` must run many nodes at once"),
        _TOLERANCE,
        f"`{name}` must give with the engine vectorized what it gives with sequential",
        "Tell padded rows by `real`.",
    )
    rule = f"`{name}` must leave what nodes and server hold to the verbs, each process seeing its own alone"
    apart = _tried(lambda: threads(range(nodes), lambda transport: run(setup(asked, lambda rows: transport)))[0], rule)
    _same(first, apart, 0.0, rule, "Send it by a verb.")
    told = [
        f"{name} gives the same record twice, on {nodes} nodes in {experiment.rounds} rounds",
        "with the engine vectorized as with sequential",
        "with every node and the server in a thread that shares nothing but messages",
    ]
    if built.method.traits.needs_all or nodes == 1:
        return told
    resting = replace(asked, fault=[by_turns])
    rule = f"`{name}` must do without an absent node"
    first = _tried(lambda: run(setup(resting)), rule)
    again = _tried(lambda: run(setup(replace(resting, engine="vectorized"))), rule)
    _same(first, again, _TOLERANCE, f"{rule}, with the engine vectorized as with sequential", "Leave it to the verbs.")
    return [*told, "with another node absent in every round"]


def by_turns() -> Fault:
    """Of the nodes another one is absent in every round."""
    return Fault(lambda planned, draw: Missing(nodes=[planned.round % len(planned.rows)]))


def _tried(play: Callable[[], Result], rule: str) -> Result:
    try:
        return play()
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise SettingError(
            f"{rule}; got {type(error).__name__}: {told}. Look for Python that reads a value."
        ) from error


def _same(first: Result, other: Result, tolerance: float, rule: str, remedy: str) -> None:
    for old, new in zip(first.rounds, other.rounds, strict=True):
        for key in old.keys() - {"seconds", *(["multiply_adds"] if tolerance else [])}:
            if not _close(old[key], new[key], tolerance):
                raise SettingError(f"{rule}; got another {key} in round {old['round']}. {remedy}")
    for key, w in first.weights.items():
        if not torch.allclose(w, other.weights[key], rtol=tolerance, atol=tolerance, equal_nan=True):
            raise SettingError(f"{rule}; got other weights {key}. {remedy}")


def _close(old: Any, new: Any, tolerance: float) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return abs(old - new) <= tolerance * max(abs(old), 1.0)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_close(a, b, tolerance) for a, b in zip(old, new, strict=True))
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_close(part, new[key], tolerance) for key, part in old.items())
    return bool(old == new)
