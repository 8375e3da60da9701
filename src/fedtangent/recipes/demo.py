"""Demo: what NTK-DFL buys over averaging with neighbours, and what it costs, on the digits, in about a minute.

Step sizes were chosen on a part of the training images, for NTK-DFL and for DFedAvg alike.
"""

from collections.abc import Sequence

from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.reports.page import page
from fedtangent.reports.records import Record

SHARED = {"dataset": "digits", "partition": "dirichlet", "alpha": 0.1, "nodes": 20, "rounds": 20}
GRAPH = {"topology": "regular", "degree": 4}
SGD = {"epochs": 20, "batch": 25, "lr": 0.3}


def experiments(seed: int = 0) -> list[Experiment]:
    """The methods side by side: the same data, partition, first weights and graphs."""
    return [
        experiment("ntkdfl", lr=0.03, exchange="factors", seed=seed, **GRAPH, **SHARED),
        experiment("dfedavg", seed=seed, **SGD, **GRAPH, **SHARED),
        experiment("local", seed=seed, **SGD, **SHARED),
        experiment("central", seed=seed, **{**SGD, "epochs": 1}, **SHARED),
    ]


def figure(records: Sequence[Record], target: float | None = None) -> str:
    """The page of their records."""
    return page(records, target)
