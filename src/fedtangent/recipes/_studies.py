"""The studies of NTK-DFL as runs: what each of them varies, and what is measured of a run's nodes at its end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from fedtangent import catalog
from fedtangent.errors import SettingError
from fedtangent.experiments.evaluate import measured
from fedtangent.experiments.setup import Setup
from fedtangent.federation import Graph, generator
from fedtangent.shard import at
from fedtangent.training.task import Weights

TANGENT = {"engine": "sequential"}  # on a CPU the tangent methods are fastest node by node
METHODS: dict[str, dict[str, Any]] = {
    "NTK-DFL": {"method": "ntkdfl", "exchange": "factors", **TANGENT},
    "DFedKFAC": {"method": "dfedkfac", **TANGENT},
    "Pooled rows": {"method": "pooled", "epochs": 5},  # the control, whose messages tell as much as NTK-DFL's
    "DFedAvg": {"method": "dfedavg", "epochs": 20, "batch": 25, "lr": 0.1},
}
GRAPHS = ("regular", "ring", "line", "torus", "clusters", "erdos_renyi")
DRAWN = ("regular", "erdos_renyi")  # anew in every round; the nodes of the others change places
# What each study varies, on the paper's grid.
STUDIES: dict[str, tuple[str, ...]] = {
    "degree": tuple(map(str, range(2, 11))),
    "alpha": ("0.1", "0.2", "0.3", "0.4", "0.5", "iid"),
    "averaging": ("on", "off"),
    "graph": (*GRAPHS, *(f"{name}-static" for name in GRAPHS)),
    "first_weights": ("same", "distinct"),
    "nodes": ("30", "100", "300", "1000"),
    "final_average": ("all",),
    "deviation": ("2", "3", "5", "7", "10"),
    "kernel": ("trace", "full"),
}
ORDERS = ("best", "random", "worst")
_COUNTS = 40  # points of a curve over the models that enter an average


class Ends(NamedTuple):
    """What is true of the nodes' own models after the last round, measured as they are.

    Attributes:
        accuracy: Each node's, on all test rows.
        deviation: The root mean square, over nodes and parameters, of a node's weights minus their mean.
    """

    accuracy: list[float]
    deviation: float


def values_of(study: str, given: Sequence[str]) -> tuple[str, ...]:
    """The values of a study, those given or the paper's.

    Raises:
        ValueError: A value that the study does not have.
    """
    whole = study in ("degree", "deviation", "nodes")
    for value in given:
        if not (value.isdigit() if whole else study == "alpha" or value in STUDIES[study]):
            choice = "whole numbers" if whole else f"among {', '.join(STUDIES[study])}"
            raise SettingError(f"`values` of {study} must be {choice}; got {value!r}. Give such values.")
    return tuple(given) or STUDIES[study]


def settings(study: str, value: str, method: str, nodes: int, degree: int) -> dict[str, Any] | None:
    """A run's settings beside its data; None where the value makes no difference to the method."""
    own = {**METHODS[method], "nodes": nodes, "topology": "regular", "degree": degree}
    if study in ("degree", "deviation"):
        return own | {"degree": int(value)}
    if study == "nodes":
        return own | {"nodes": int(value)}
    if study == "averaging" and value == "off":
        return _alone(own) if own["method"] == "dfedavg" else own | {"averaging": False}
    if study == "first_weights":
        return own | {"first_weights": value}
    if study == "kernel":
        fixed = own["method"] != "ntkdfl"
        return None if fixed and value == "full" else own | ({} if fixed else {"kernel": value})
    if study == "graph":
        own.pop("degree")
        return own | _graph(*value.split("-"), nodes=nodes, degree=degree)
    return own


def _alone(own: dict[str, Any]) -> dict[str, Any]:
    """DFedAvg that does not average: every node trains alone."""
    return {name: value for name, value in own.items() if name not in ("topology", "degree")} | {"method": "local"}


def _graph(name: str, static: str = "", *, nodes: int, degree: int) -> dict[str, Any]:
    """A graph of about as many edges where it has no shape of its own; one that draws nothing changes places."""
    shapes: dict[str, dict[str, Any]] = {
        "regular": {"degree": degree},
        "erdos_renyi": {"p": min(1.0, degree / max(nodes - 1, 1))},
    }
    fixed = name not in DRAWN and not static
    return {"topology": _moving(name) if fixed else name, "static": bool(static), **shapes.get(name, {})}


def _moving(name: str) -> Callable[..., Graph]:
    """The topology of this name, the nodes of which change places from round to round."""
    draw = catalog.load("topologies", name)

    def moving(nodes: int, rng: np.random.Generator) -> Graph:
        place = rng.permutation(nodes)
        return Graph([(place[i], place[j]) for i, j in draw(nodes, rng).edges], nodes)

    return moving


def gap(built: Setup, rounds: int = 5) -> float:
    """The mean spectral gap of the first rounds' graphs; 0 of nodes that do not talk."""
    graphs = [graph for graph, _ in zip(built.graphs, range(rounds), strict=False)]
    return float(np.mean([graph.spectral_gap(built.experiment.gossip_weights) for graph in graphs])) if graphs else 0.0


def ends(built: Setup, nodes: Sequence[Weights]) -> Ends:
    """What is true of the nodes' models."""
    mean = _mean(nodes)
    squares = sum(float(((w[name] - mean[name]).double() ** 2).sum()) for w in nodes for name in mean)
    numbers = len(nodes) * sum(part.numel() for part in mean.values())
    return Ends([measured(built, w)[0] for w in nodes], (squares / numbers) ** 0.5)


def orders(built: Setup, nodes: Sequence[Weights], seed: int) -> Iterator[tuple[str, int, float]]:
    """Order, number of models, and the accuracy of their average, the best, random or worst models first.

    As in the paper half of the test rows, drawn, decide which models are the best; the average is measured on the
    other half.
    """
    y = built.y_test
    rows = torch.from_numpy(generator(seed, 0, "final average").permutation(len(y))).to(y.device)
    choose, test = (_of_rows(built, part) for part in (rows[: len(y) // 2], rows[len(y) // 2 :]))
    score = [measured(choose, w)[0] for w in nodes]
    best = sorted(range(len(nodes)), key=lambda node: (-score[node], node))
    drawn = generator(seed, 0, "order").permutation(len(nodes)).tolist()
    counts = np.unique(np.linspace(1, len(nodes), min(len(nodes), _COUNTS)).round().astype(int)).tolist()
    for order, places in zip(ORDERS, (best, drawn, best[::-1]), strict=True):
        for count in counts:
            yield order, count, measured(test, _mean([nodes[place] for place in places[:count]]))[0]


def _of_rows(built: Setup, rows: torch.Tensor) -> Setup:
    """The same, with these test rows alone."""
    return replace(built, x_test=at(built.x_test, rows), y_test=built.y_test[rows])


def _mean(nodes: Sequence[Weights]) -> Weights:
    return {name: torch.stack([w[name] for w in nodes]).mean(0) for name in nodes[0]}
