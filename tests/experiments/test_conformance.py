"""A method of one's own held to the contract: what breaks it is told in one sentence."""

from pathlib import Path
from typing import Any

import pytest

from fedtangent import cli
from fedtangent.catalog import names

HEAD = '''"""Mine: FedAvg without training, and {what}.

round: w <- mean w_k
"""
from typing import NamedTuple
import torch
from fedtangent.federation import Central, Each, Fleet, Method, Traits

class State(NamedTuple):
    w: Central[dict]

def {name}(task):
    def init(fleet, data_k):
        return State(fleet.server(task.w_0))

    def round(fleet, state, data_k, k):
        w_k = fleet.broadcast(state.w)
        w_k = fleet.map(lambda w, data: {{name: p + 0.001 * data.real.sum() for name, p in w.items()}}, w_k, data_k)
{body}
        return State(fleet.mean(w_k)), {{}}

    return Method("{name}", init, round, "aggregate", Traits(averages=True))
'''

SEES = "must leave what nodes and server hold to the verbs, each process seeing its own alone; got "
BROKEN = {
    "peeks": ("w_k = fleet.map(lambda w: w, fleet.everywhere(w_k.values[0]))", SEES),
    "branches": ("if float(next(iter(state.w.value.values())).sum()) > 1e9: w_k = fleet.broadcast(state.w)", SEES),
    "speaks": ("w_k = fleet.map(lambda w, v: v, w_k, fleet.broadcast(state.w)) if fleet.here else w_k", SEES),
    "chance": (
        "w_k = fleet.map(lambda w: {n: p + torch.randn(()) for n, p in w.items()}, w_k)",
        "must give the same record twice; got another ",
    ),
    "counts": (
        "w_k = fleet.map(lambda w, data: {n: p + data.x.shape[0] for n, p in w.items()}, w_k, data_k)",
        "must give with the engine vectorized what it gives with sequential; got another ",
    ),
    "items": (
        "w_k = fleet.map(lambda w, data: w if data.y.sum() > 0 else w, w_k, data_k)",
        "must run many nodes at once; got NodeError: ",
    ),
    "expects": (
        "w_k = fleet.map(lambda w: w, w_k if fleet.nodes[5] else data_k)",
        "must do without an absent node; got ",
    ),
    "looks": ("w_k = fleet.everywhere(fleet.observe(w_k)[0])", "`observe` must not be called by a method"),
}


def written(folder: Path, name: str, body: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(HEAD.format(name=name, what=name, body="        " + body))
    return str(path)


@pytest.mark.few(4)
@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_a_law_is_one_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body, sentence = BROKEN[name]
    assert cli.main(["check", written(tmp_path, name, body)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"fedtangent: `{name}` {sentence}" if "`" not in sentence else f"fedtangent: {sentence}")


def test_one_that_keeps_them_is_told_what_was_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", written(tmp_path, "right", "pass")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "right: right gives the same record twice, on 6 nodes in 2 rounds",
        "right: with the engine vectorized as with sequential",
        "right: with every node and the server in a thread that shares nothing but messages",
        "right: with another node absent in every round",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", names("methods"))
def test_all_of_the_package_keep_them(name: str) -> None:
    options: dict[str, list[str]] = {
        "afl": ["--no-guard"], "fedkfac": ["--no-guard"], "sumntk": ["--columns", "1"], "fedpart": ["--warm-up", "1"],
        "fedpm": ["--no-guard"], "fedfisher": ["--epochs", "2", "--steps", "50"], "relaysgd": ["--topology", "line"],
        "spark": ["--columns", "50", "--stage", "0"],
        "tct": ["--first-rounds", "1", "--features", "500"],
    }  # fmt: skip
    words: list[Any] = ["check", name, *options.get(name, [])]
    assert cli.main(words) == 0
