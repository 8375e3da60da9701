"""The demo compares like with like."""

from pathlib import Path

from fedtangent.experiments.record import manifest
from fedtangent.experiments.setup import setup
from fedtangent.recipes import demo
from fedtangent.reports.records import Record


def test_the_methods_share_data_weights_and_graphs() -> None:
    built = [setup(one) for one in demo.experiments(seed=2)]
    assert [one.description["method"] for one in built] == ["ntkdfl", "dfedavg", "local", "central"]
    assert len({one.fingerprint for one in built}) == 1
    talking = [one for one in built if one.method.traits.neighbours]
    edges = [graph.edges for graph in (one.graph(3) for one in talking) if graph]
    assert len(edges) == 2
    assert edges[0] == edges[1]
    assert {(one.experiment.rounds, one.experiment.seed) for one in built} == {(20, 2)}


def test_the_figure_is_the_page_of_the_records() -> None:
    rows = [{"round": 1, "accuracy": 0.5, "loss": 1.0, "sent_bytes": 10, "seconds": 0.1}]
    found = [Record(Path("run"), manifest(setup(one)), rows) for one in demo.experiments()]
    assert "ntkdfl, dfedavg, local and central on digits, 20 nodes" in demo.figure(found)
