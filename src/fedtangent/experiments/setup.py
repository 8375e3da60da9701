"""Setup: everything that an experiment's words stand for, built and checked."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent import shard, trees
from fedtangent.engines.sequential import sequential
from fedtangent.errors import SettingTypeError
from fedtangent.experiments import early, steps
from fedtangent.experiments.build import (
    built_augmentation,
    built_coding,
    built_dataset,
    built_device,
    built_loss,
    built_model,
    built_presence,
    built_weights,
    check_channel,
    generator,
    initialised,
    mixed,
    named,
)
from fedtangent.experiments.engine import built_engine
from fedtangent.experiments.experiment import Experiment, factory
from fedtangent.experiments.first_weights import built_first, check_start, drawn
from fedtangent.experiments.fit import check_fit, check_own
from fedtangent.experiments.liars import built_liars, built_rule, told
from fedtangent.experiments.method import built_method, check_compatible, played
from fedtangent.experiments.metrics import Metric, built_metrics
from fedtangent.experiments.options import plain
from fedtangent.experiments.parts import PARTS
from fedtangent.experiments.share import Share
from fedtangent.experiments.sources import Source, sources
from fedtangent.experiments.test_rows import partitioned
from fedtangent.federation import SERVER, Each, Engine, Fleet, Graph, Liars, Method, Presence, Rule, Transport, Wire
from fedtangent.federation.presence import There, completed, counted, of_all
from fedtangent.federation.values import held as holders
from fedtangent.module_state import copied
from fedtangent.own import called
from fedtangent.shard import Shard, at
from fedtangent.training.losses import weighted
from fedtangent.training.task import Task, Weights
from fedtangent.transports.memory import memory

OBJECTS = 2**14  # bytes of the tensors' own objects, however small, of what a node makes for itself or for a neighbour


@dataclass(frozen=True, eq=False)
class Setup:
    """An experiment, ready to run.

    Attributes:
        experiment: What was asked for.
        dataset: The data set's name.
        classes: Their number; 0 in a regression.
        data: One shard a node.
        x_test: The test inputs.
        y_test: Their labels or targets.
        task: Model, loss and first weights.
        method: Built from the task.
        engine: Runs the nodes.
        module: The model, which nothing is run on: what is given back, and saved.
        sources: Digests of the files and functions that it is made of.
        class_weights: Of the loss, by label; None where none were asked for.
        engine_reason: Why the engine is not the usual one, where it is not.
        transport: How messages travel between the processes that run this; `memory` where it is one.
        tests: The test rows of every node, where each is measured on its own; None where all are measured on all.
        share: What this process holds in a real federation, where each keeps its rows and its own checkpoint.
        presence: Who is there in a round; None where always everybody is.
        liars: Who lies, and how; None where nobody does.
        rule: How messages are averaged where some may lie; None for plain averages.
        held: The rows that every node keeps back to validate on; None where they train on all.
        metrics: What is measured beside accuracy, by name.
    """

    experiment: Experiment
    dataset: str
    classes: int
    data: Sequence[Shard]
    x_test: Any
    y_test: Tensor
    task: Task
    method: Method
    engine: Engine
    module: nn.Module
    sources: Mapping[str, Source]
    class_weights: tuple[float, ...] | None = None
    engine_reason: str | None = None
    transport: Transport = field(default_factory=memory)
    tests: Sequence[Shard] | None = None
    share: Share | None = None
    presence: Presence | None = None
    liars: Liars | None = None
    rule: Rule | None = None
    held: Sequence[Shard] | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        """Whether this process is the server's, which evaluates and records."""
        return self.transport.here(SERVER)

    @property
    def nodes(self) -> tuple[int, ...]:
        """The nodes' numbers."""
        return tuple(range(len(self.data)))

    @property
    def present(self) -> tuple[int, ...]:
        """Those of the nodes whose processes take part: in a real federation some may be away."""
        return self.nodes if self.share is None or self.share.present is None else self.share.present

    @property
    def inputs(self) -> Any:
        """The shape of a row's inputs, or the shapes where there are several."""
        return trees.map(lambda leaf: list(leaf.shape[1:]), self.x_test)

    def predict(self, weights: Weights, x: Any) -> Tensor:
        """The outputs that the aggregate's, or a node's, weights stand for."""
        return (self.method.predict or self.task.predict)(weights, x)

    def graph(self, round: int) -> Graph | None:
        """The graph of a round; None for a method without neighbours."""
        if not self.method.traits.neighbours:
            return None
        if isinstance(self.experiment.topology, Graph):
            return self.experiment.topology
        rng = generator(self.experiment, "topology", 1 if self.experiment.static else round)
        if self.method.graph is not None:
            return self.method.graph(len(self.data), rng)
        graph = drawn(rng, called, "topology", self._topology, "nodes, rng", len(self.data), rng)
        if isinstance(graph, Graph):
            return graph
        raise SettingTypeError(f"`topology` must give a Graph; got {type(graph).__name__}. Return Graph(edges, nodes).")

    @property
    def graphs(self) -> Iterator[Graph]:
        """Those of all rounds, one where it never changes; none for a method without neighbours."""
        last = 1 if self.experiment.static or isinstance(self.experiment.topology, Graph) else self.experiment.rounds
        return (graph for k in range(1, last + 1) if (graph := self.graph(k)) is not None)

    def fleet(self, round: int, wire: Wire) -> Fleet:
        """The fleet of a round; before the first one, with the first one's graph."""
        graph = self.graph(max(round, 1))
        wire.begin(round)
        if graph is not None and self.present != self.nodes:
            graph = graph.without({*self.nodes}.difference(self.present), ())
        return Fleet(
            self.present,
            self.engine,
            wire,
            seed=self.experiment.seed,
            round=round,
            graph=graph,
            gossip_weights=self.experiment.gossip_weights,
            node_bytes=self.node_bytes(graph),
            method=self.method.name,
            device=self.experiment.device,
            total=len(self.nodes),
        )

    def wire(self) -> Wire:
        """A new wire, on which nothing has passed."""
        return Wire(self.transport, coding=built_coding(self.experiment), liars=self.liars, rule=self.rule)

    def honest(self, fleet: Fleet) -> Fleet:
        """The fleet of those that do not lie, whom evaluation is about."""
        if self.liars is None:
            return fleet
        nodes = tuple(node for node in fleet.nodes if node not in self.liars.nodes)
        return replace(fleet, nodes=nodes, graph=fleet.graph and fleet.graph.induced(nodes))

    def play(self, fleet: Fleet, state: Any, data_k: Each[Shard], k: int) -> tuple[Any, dict[str, Any]]:
        """State and what the method records after round k, every value computed; absent nodes keep their state."""
        present = self.there(fleet).fleet
        if present is None:
            return state, {}
        new, extra = played(self.method, replace(present, blind=True), state, data_k, k)
        for part in (*holders(new), *extra.values()):
            if isinstance(part, Each):
                part.settle()
        if self.presence is None:
            return new, dict(extra)
        extra = {name: of_all(fleet, value) if isinstance(value, Each) else value for name, value in extra.items()}
        return completed(present, new, state), extra

    def there(self, fleet: Fleet) -> There:
        """Who of a round's fleet is there."""
        if self.presence is None:
            told = counted(fleet) if self.share is not None and self.share.counted else {}
            return There(fleet, told, 1.0)
        return self.presence.there(fleet, [len(data.real) for data in self.data], self.method.exposure != "none")

    def alone(self) -> "Setup":
        """The same in one process and with all nodes, as it is described whatever ran it, and whoever was there."""
        share = None if self.share is None else self.share._replace(present=None)
        return replace(self, transport=memory(), share=share)

    def with_engine(self, engine: Engine) -> "Setup":
        """The same with another engine."""
        return replace(self, engine=engine)

    @property
    def description(self) -> dict[str, Any]:
        """The experiment with everything resolved, as JSON holds it."""
        asked, talks = self.experiment, self.method.traits.neighbours and self.method.graph is None
        return {
            "method": asked.name,
            "options": plain(asked.resolved("method")),
            **_described(asked, "host", asked.hosted),
            "dataset": self.dataset,
            "dataset_options": plain(asked.resolved("dataset")),
            **_described(asked, "augment", asked.augment),
            "model": named(asked.model),
            "model_options": plain(asked.resolved("model")),
            **({} if asked.outputs is None else {"outputs": plain(asked.outputs)}),
            **({"first_weights": asked.first_weights} if asked.first_weights != "same" else {}),
            "loss": self.task.loss.name,
            **self._weights,
            "project": asked.project,
            "partition": named(asked.partition) if self.share is None else "sites",
            "partition_options": plain(asked.resolved("partition")),
            "nodes": len(self.data),
            "topology": named(asked.topology or PARTS["topology"].default) if talks else None,
            "topology_options": plain(asked.resolved("topology")) if talks else {},
            "static": asked.static if talks else None,
            "gossip_weights": asked.gossip_weights if talks else None,
            **_described(asked, "channel", factory("channel", asked.channel)),
            **_described(asked, "fault", factory("fault", asked.fault)),
            **_described(asked, "attack", factory("attack", asked.attack)),
            **_described(asked, "rule", factory("rule", asked.rule)),
            **steps.described(asked),
            **({"validation": asked.validation} if asked.validation else {}),
            **({} if asked.early_stop is None else {"early_stop": asked.early_stop}),
            "rounds": asked.rounds,
            "seed": asked.seed,
            "engine": self.engine.name,
            "memory": asked.memory,
            "device": str(asked.device),
            "dtype": asked.dtype,
            **({"aggregate_best": asked.aggregate_best} if asked.aggregate_best != 1 else {}),
            **({"metric": list(self.metrics)} if self.metrics else {}),
            **({} if asked.evaluate_on is None else {"evaluate_on": asked.evaluate_on}),
            "evaluate_nodes_every": asked.evaluate_nodes_every,
            **({"deterministic": True} if asked.deterministic else {}),
        }

    @property
    def _weights(self) -> dict[str, Any]:
        asked = self.experiment.class_weights
        if asked is None:
            return {}
        told = asked if isinstance(asked, str) else [float(weight) for weight in asked]
        return {"class_weights": told, "weight_by_class": plain(self.class_weights)}

    @cached_property
    def fingerprint(self) -> str:
        """A digest of data, first weights and all else that the model holds, which no description can hold."""
        digest = hashlib.blake2b(digest_size=16)
        held = dict([*self.task.model.named_parameters(), *self.task.model.named_buffers()])
        data: Any = [list(self.data), self.x_test, self.y_test]
        if self.share is not None:
            digest.update("".join(self.share.digests).encode())
            data = []
        elif self.tests is not None:
            data.append(list(self.tests))
        if self.held is not None and self.share is None:
            data.append(list(self.held))
        for leaf in trees.leaves([data, held]):
            leaf = leaf.detach().cpu() if leaf.layout == torch.strided else leaf.detach().cpu().to_dense()
            digest.update(str((tuple(leaf.shape), leaf.dtype)).encode())
            digest.update(leaf.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @cached_property
    def _topology(self) -> Callable[..., Graph]:
        """What draws a graph; the same function in all rounds, though its file may be edited meanwhile."""
        draw = factory("topology", self.experiment.topology)
        assert draw is not None
        return partial(draw, **self.experiment.resolved("topology"))

    def node_bytes(self, graph: Graph | None) -> Mapping[int, int]:
        """The peak memory of each node's work; where it has neighbours, from the mean rows of its neighbourhood."""
        coded = self.experiment.channel is not None and self.method.coded_bytes is not None
        needs = self.method.coded_bytes if coded else self.method.node_bytes
        if needs is None:  # a few copies of weights and data
            weights = trees.payload_bytes(self.task.w_0)
            return {i: 8 * weights + 4 * trees.payload_bytes(data) for i, data in enumerate(self.data)}
        rows = [len(data.real) for data in self.data]
        near: list[tuple[int, ...]] = [(count,) for count in rows]
        if graph is not None:
            near = [(count, *(rows[j] for j in ids)) for count, ids in zip(rows, graph.neighbours, strict=True)]
        least = [OBJECTS * len(its) for its in near]
        return {i: max(least[i], needs(-(-sum(its) // len(its)), len(its) - 1)) for i, its in enumerate(near)}

    def needs(self) -> float:
        """The mean over the nodes of the peak memory of one's work, with the neighbours of the first round."""
        return fmean(self.node_bytes(self.graph(1)).values())


def setup(
    experiment: Experiment,
    transport: Callable[[Sequence[int]], Transport] | None = None,
    share: Share | None = None,
) -> Setup:
    """The experiment, built and checked.

    Args:
        experiment: What is asked for.
        transport: From the rows of every node, what joins the processes that run it, each with a setup of its own;
            none is `memory`.
        share: What this process holds, where it is one of a real federation; the experiment's data set is its own.

    Raises:
        ValueError: A setting that cannot be, or that would be ignored.
        TypeError: A part of the wrong kind.
        OSError: A data set that cannot be read or written.
    """
    device, dtype = built_device(experiment), getattr(torch, experiment.dtype)
    how = steps.built_steps(experiment)
    early.check(experiment)
    dataset = built_dataset(experiment)
    outputs = dataset.classes or dataset.y_train.shape[1]
    partition = partitioned(experiment, dataset, share)
    dataset, partition = mixed(experiment, dataset, partition)
    inputs = trees.map(lambda leaf: tuple(leaf.shape[1:]), dataset.x_train)
    model, first = built_model(experiment, inputs, outputs), built_first(experiment, inputs, outputs, dtype)
    example = at(dataset.x_train, slice(0, 2))
    model = initialised(experiment, model, example)
    augment = built_augmentation(experiment, example)
    loss, by_class = built_loss(experiment, dataset), built_weights(experiment, dataset, partition)
    loss = loss if by_class is None else weighted(loss, by_class)
    task = Task(model, loss, example, augment=augment, outputs=experiment.outputs, steps=how, first=first)
    task = task.to(device, dtype)
    module = copied(task.model)
    x_test, y_test = trees.to((dataset.x_test, dataset.y_test), device, dtype)
    measured = built_metrics(experiment, dataset)
    check_fit(task, dataset)
    check_own(model, task, at(x_test, slice(0, 2)))
    method = built_method(experiment, task, len(partition.index))
    check_compatible(experiment, task, method)
    check_start(task, method)
    early.check_best(experiment, method, share is not None)
    steps.check_taken(experiment, task, method)
    check_channel(experiment, method)
    if share is None:
        data = [trees.to(part, device, dtype) for part in shard.shards(dataset, partition)]
        tests = shard.tests(x_test, y_test, partition)
    else:
        data = share.shards(*trees.to((dataset.x_train, dataset.y_train), device, dtype))
        tests = share.tests(x_test, y_test)
    data, held = early.kept_back(data, experiment.validation, experiment.seed)
    liars = built_liars(experiment, method, len(data))
    if liars is not None and (changed := liars.attack.data) is not None:
        data = [told(changed, part, dataset.classes) if node in liars.nodes else part for node, part in enumerate(data)]
    built = Setup(
        experiment,
        dataset.name,
        dataset.classes,
        data,
        x_test,
        y_test,
        task,
        method,
        sequential(),
        module,
        sources(experiment),
        by_class,
        None,
        memory() if transport is None else transport([len(part.real) for part in data]),
        tests,
        share,
        presence=built_presence(experiment, method),
        liars=liars,
        held=held,
        metrics=measured,
    )
    built = replace(built, rule=built_rule(experiment, method, built.fleet(1, built.wire()), built.graphs, liars))
    tried = data if share is None else [data[share.node or 0]]
    engine, reason = built_engine(experiment, device, task, method, tried, built.needs)
    return replace(built, engine=engine, engine_reason=reason)


def _described(experiment: Experiment, part: str, chosen: Any) -> dict[str, Any]:
    """A part that may be left out, and its options, where there is one."""
    if chosen is None:
        return {}
    return {part: named(chosen), f"{part}_options": plain(experiment.resolved(part))}
