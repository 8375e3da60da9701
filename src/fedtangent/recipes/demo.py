"""Demo: what averaging with neighbours buys over training alone, on the digits, in about a minute on two cores."""

from collections.abc import Sequence

from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.reports.page import page
from fedtangent.reports.records import Record

NODES, ROUNDS = 20, 20
SHARED = {"dataset": "digits", "partition": "dirichlet", "alpha": 0.1, "nodes": NODES, "rounds": ROUNDS}
GRAPH = {"topology": "regular", "degree": 4}


def experiments(seed: int = 0) -> list[Experiment]:
    """The methods side by side: the same data, partition, first weights and graphs."""
    return [
        experiment("dfedavg", epochs=5, batch=25, lr=0.1, seed=seed, **GRAPH, **SHARED),
        experiment("local", epochs=5, batch=25, lr=0.1, seed=seed, **SHARED),
        experiment("central", epochs=1, batch=25, lr=0.1, seed=seed, **SHARED),
    ]


def figure(records: Sequence[Record], target: float | None = None) -> str:
    """The page of their records."""
    return page(records, target)
