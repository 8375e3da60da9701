"""Best nodes: those whose models the aggregated one is the mean of, chosen on rows that all nodes have kept back.

As in NTK-DFL (Thompson et al. ICML 2025), section on the selection of models: the nodes donate rows to a common
validation set, and the models that are best on it are averaged.
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any

from fedtangent import shard
from fedtangent.experiments.evaluate import scored
from fedtangent.experiments.setup import Setup
from fedtangent.federation import Fleet


def best_nodes(built: Setup, fleet: Fleet, state: Any) -> Fleet:
    """The fleet of the share of nodes, at least one, whose own models, as they are, are best on the rows kept back.

    The best have most rows right, of those the lower loss, and the lower number; in a regression the lower loss.
    """
    share = built.experiment.aggregate_best
    if share == 1:
        return fleet
    assert built.held is not None and built.method.personal is not None
    rows = shard.join([built.held[node] for node in fleet.nodes])
    found = fleet.observe(fleet.map(partial(scored, built), built.method.personal(state), fleet.everywhere(rows)))
    rank = [(-int(right), _finite(float(loss)), node) for (right, loss), node in zip(found, fleet.nodes, strict=True)]
    nodes = tuple(sorted(node for *_, node in sorted(rank)[: max(1, round(share * len(rank)))]))
    return replace(fleet, nodes=nodes, graph=fleet.graph and fleet.graph.induced(nodes))


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
