"""Run: the only training loop."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedtangent import home, trees
from fedtangent.errors import SettingError, SettingTypeError
from fedtangent.experiments import apart, checkpoint, early, model_file, record
from fedtangent.experiments import resume as resuming
from fedtangent.experiments.best_nodes import best_nodes
from fedtangent.experiments.deterministic import deterministic
from fedtangent.experiments.evaluate import evaluate, validated
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.method import aggregated
from fedtangent.experiments.personal import measures
from fedtangent.experiments.recalibrate import recalibrated
from fedtangent.experiments.setup import Setup, setup
from fedtangent.experiments.tracking import Tracking
from fedtangent.experiments.warm_up import warm_up
from fedtangent.federation import SERVER, Central, Each, Fleet, Ledger, Wire
from fedtangent.federation.looking import collected, seen
from fedtangent.module_state import copied
from fedtangent.own import check_takes
from fedtangent.shard import Shard
from fedtangent.training.task import Weights


@dataclass(frozen=True, eq=False)
class Result:
    """What a run came to.

    Attributes:
        manifest: Its resolved experiment and what else was true of it.
        rounds: One entry a round, as in `rounds.jsonl`.
        weights: Of the aggregated model; and what else a method's own predictions take.
        folder: Where it is recorded; None where it is not.
        nodes: The nodes' own weights after the last round, as they are, where they were asked for and are here.
    """

    manifest: dict[str, Any]
    rounds: list[dict[str, Any]]
    weights: Weights
    folder: Path | None
    _model: nn.Module = field(repr=False)
    nodes: Sequence[Weights] = field(default=(), repr=False)

    @property
    def model(self) -> nn.Module:
        """The aggregated model, in eval mode."""
        return model_file.filled(copied(self._model), self.weights)


def _folder(out: Any) -> Path:
    """The folder that is named; ~ is the home, which a shell has not always put in its place."""
    if not isinstance(out, (str, PathLike)) or "\0" in str(out) or not str(out):
        raise SettingTypeError(f"`out` must be a path; got {out!r}. Name a folder.")
    return home.path(out)


@contextmanager
def _cpu_by_default() -> Iterator[None]:
    """Tensors are made on the CPU, whatever torch.set_default_device says: a run goes by the device it is given."""
    with nullcontext() if torch.empty(0).device.type == "cpu" else torch.device("cpu"):
        yield


@_cpu_by_default()
def run(
    experiment: Experiment | Setup,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    on_round: Callable[[dict[str, Any]], None] | None = None,
    tensorboard: bool = False,
    track: Sequence[str] = (),
    page: Callable[[Path], Path] | None = None,
    keep_nodes: bool = False,
) -> Result:
    """The result of an experiment.

    Where several processes run it together, each calls this with a setup of its own; the server's records, and what
    comes of the others is empty. In a real federation each has a folder, and keeps its own part there.

    Args:
        experiment: What to do, or its setup where that exists already.
        out: The folder for the record; none keeps it in memory only.
        resume: Go on with a run that is there, to the same record.
        on_round: Called with the entry of every round that ends, after its checkpoint.
        tensorboard: Log the rounds for TensorBoard too, in the folder.
        track: The trackers that are given settings, rounds and files, such as mlflow, or files of one's own.
        page: Writes the run's page in its folder, and gives the path, for the trackers to keep.
        keep_nodes: Whether the result is to hold the nodes' own weights, too.

    Raises:
        ValueError: A setting that cannot be, a folder that holds something else, or a model that diverged.
        OSError: The folder cannot be written; what was recorded is kept.
        NodeError: A node failed; what was recorded is kept.
    """
    out = None if out is None else _folder(out)
    if resume and out is None:
        raise SettingError("`resume` must have a folder to go on from; got no `out`. Give --out.")
    if on_round is not None:
        check_takes("on_round", on_round, "entry", {})
    built = experiment if isinstance(experiment, Setup) else setup(experiment)
    manifest = record.manifest(built)
    trackers = [track] if isinstance(track, (str, PathLike)) else track or ()
    names = [*(["tensorboard"] if tensorboard else []), *map(str, trackers)]
    tracking = Tracking(names if built.leads else [], out, page)
    if out is not None:
        model_file.check(built.module)
    wire = built.wire()
    with ExitStack() as stack:
        if out is not None:
            claim = record.claimed(out, manifest, resume)
            if built.share is None:
                resuming.agreed(wire, lambda: str(stack.enter_context(claim)))
            else:
                stack.enter_context(claim)
        stack.enter_context(deterministic(built.experiment))
        stack.enter_context(_what_is_there_is_kept())
        stack.callback(tracking.finish, False)  # where it does not end well
        rounds, weights, state = _played(built, wire, out, partial(tracking.begin, manifest), tracking.log, on_round)
        tracking.finish(True)
    personal = built.method.personal if keep_nodes else None
    nodes = () if personal is None else personal(state).values
    return Result(manifest, rounds, weights, out, built.module, nodes)


@contextmanager
def _what_is_there_is_kept() -> Iterator[None]:
    """Inside, the collector of garbage passes over what is there: with 10,000 nodes a third of a round goes into it."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _played(
    built: Setup,
    wire: Wire,
    folder: Path | None,
    begun: Callable[[Sequence[dict[str, Any]]], None],
    log: Callable[[dict[str, Any]], None],
    on_round: Callable[[dict[str, Any]], None] | None,
) -> tuple[list[dict[str, Any]], Weights, Any]:
    """All rounds, those of the folder's checkpoint included, and weights and state after the last one."""
    start = built.fleet(0, wire)
    data_k = start.each([built.data[node] for node in start.nodes])
    state, rounds, digests, types = resuming.begun(built, start, data_k, folder)
    if built.share is None:
        resuming.agreed(wire, lambda: begun(rounds))
    else:
        begun(rounds)
    if len(rounds) < built.experiment.rounds:
        warm_up(built.experiment.device)
    patience, weights = built.experiment.early_stop, None
    for k in range(len(rounds) + 1, built.experiment.rounds + 1):
        if patience is not None and wire.tell(built.leads and early.ends(rounds, patience)):
            break
        fleet = built.fleet(k, wire)
        state, entry, newest, books = step(built, fleet, state, data_k, k)
        rounds.append(entry)
        better = patience is None or not built.leads or early.best(rounds) == k
        weights = newest if better else weights
        if folder is not None:
            _kept(
                built, fleet, folder, resuming.Begun(state, rounds, digests, types), newest if better else None, books
            )
        if built.leads:
            log(entry)
        if on_round is not None and (built.leads or built.share is not None):
            on_round(dict(entry))  # what is put into it or taken out of it changes no record
    if weights is None if patience is None else wire.tell(weights is None):  # the round of them was there already
        weights = _aggregated(built, built.fleet(max(len(rounds), 1), wire), state, data_k)
        if folder is not None and built.leads and (patience is None or early.best(rounds) == len(rounds)):
            model_file.save(folder, built, weights.value)  # it may have been lost
        elif folder is not None and built.leads:
            return rounds, model_file.weights(folder, built, weights.value), state
    return rounds, weights.value if built.leads and weights is not None else {}, state


def _kept(
    built: Setup, fleet: Fleet, folder: Path, now: resuming.Begun, weights: Central[Weights] | None, books: Ledger
) -> None:
    """Writes the last round on the record and the checkpoint: the server's process of all, or each of its own part.

    The model is written too, unless an earlier round's is to be kept.
    """
    own, wire = built.share is not None, fleet.wire
    state, kept = (now.state, []) if own else (collected(fleet, now.state), wire.kept(built.nodes))
    if not (built.leads or own):
        return
    now.digests.append(record.append(folder, now.rounds[-1]))
    if built.leads and weights is not None:
        model_file.save(folder, built, weights.value)
    checkpoint.check(state, now.types)
    if own:
        apart.kept(built, fleet, folder, state, now.rounds, now.digests)
        return
    meta = {"round": len(now.rounds), "lines": now.digests, "fingerprint": built.fingerprint}
    meta |= {"ledger": books.state(), "held": wire.cache.state(), "kept": kept}
    checkpoint.save(folder, state, meta)


def step(
    built: Setup, fleet: Fleet, state: Any, data_k: Each[Shard], k: int
) -> tuple[Any, dict[str, Any], Central[Weights], Ledger]:
    """State, record entry, aggregated weights and all books after round k; `seconds` are without evaluation.

    Entry and books are those of the server's process; elsewhere they lack what is known there alone.

    Raises:
        ValueError: The weights are no longer finite, or no node found any that are.
        NodeError: A node failed.
    """
    begin = _now(built)
    state, extra = built.play(fleet, state, data_k, k)
    seconds = _now(built) - begin
    weights = _aggregated(built, fleet, state, data_k)
    if built.leads:
        _check_whole(built, weights.value, k)
    if not fleet.wire.tell(built.leads and bool(trees.all_finite(weights.value))):
        raise SettingError(
            f"`{built.method.name}` must keep its weights finite; got NaN or infinity in round {k}. "
            "Use smaller steps; the rounds before this one are kept."
        )
    extra = _counted(built, {name: seen(fleet, value) for name, value in extra.items()}, k)
    every = built.experiment.evaluate_nodes_every
    nodes = every > 0 and k % every == 0
    told, known = measures(built, built.honest(fleet), state, weights, nodes, k)
    found = evaluate(built, built.honest(fleet), state, weights, nodes, known) | told
    found |= validated(built, fleet, weights)
    ledger = fleet.wire.books(built.nodes)
    sent = {"sent_bytes": ledger.sent_bytes} | ({} if fleet.graph else {"uplink_bytes": ledger.received[SERVER]})
    measured = {"round": k, **found, **sent, "multiply_adds": ledger.multiply_adds, "seconds": round(seconds, 6)}
    measured |= built.there(fleet).record
    return state, record.line(measured, extra), weights, ledger


def _aggregated(built: Setup, fleet: Fleet, state: Any, data_k: Each[Shard]) -> Central[Weights]:
    """The aggregated model's weights, and its batch norm's statistics; nothing of it is billed."""
    fleet = built.honest(fleet)
    with fleet.ledger.paused():
        return recalibrated(
            built, fleet, aggregated(built.method, best_nodes(built, fleet, state), state, data_k), data_k
        )


def _check_whole(built: Setup, weights: Any, k: int) -> None:
    """Raises where a method of one's own has lost a parameter on the way, such as by a function without a return."""
    names = weights.keys() if isinstance(weights, Mapping) else ()
    if absent := [name for name in built.task.w_0 if name not in names]:
        got = f"none named {absent[0]!r}" if names else type(weights).__name__
        raise SettingTypeError(
            f"`{built.method.name}` must keep a tensor for every parameter; got {got} in round {k}. Look at what its "
            "functions of weights return."
        )
    for name, first in built.task.w_0.items():
        one = weights[name]
        if not isinstance(one, Tensor) or (one.shape, one.dtype) != (first.shape, first.dtype):
            got = f"{tuple(one.shape)} of {one.dtype}" if isinstance(one, Tensor) else type(one).__name__
            raise SettingTypeError(
                f"`{built.method.name}` must keep {name!r} a tensor {tuple(first.shape)} of {first.dtype}; got {got} "
                f"in round {k}. Look at what its functions of weights return."
            )


def _counted(built: Setup, extra: Mapping[str, Any], k: int) -> dict[str, Any]:
    """What the method adds to the record, with the number of failures in place of who failed."""
    if "failed" not in extra:
        return dict(extra)
    held = extra["failed"]
    failed = [bool(one) for one in (held if isinstance(held, list) else [held]) if one is not None]
    if all(failed):
        guarded = ", more neighbours or rows, or take guard off" if built.experiment.options.get("guard") else ""
        raise SettingError(
            f"`{built.method.name}` must find finite weights somewhere; got none on any node in round {k}. "
            f"Use smaller steps{guarded}; the rounds before this one are kept."
        )
    return {**extra, "failed": sum(failed)}


def _now(built: Setup) -> float:
    if torch.device(built.experiment.device).type == "cuda":
        torch.cuda.synchronize(built.experiment.device)
    return time.perf_counter()
