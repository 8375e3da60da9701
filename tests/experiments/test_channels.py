"""Channels in whole runs: chosen by name, chained, of one's own, remembered by the checkpoint; what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtangent import cli
from fedtangent.channels.quantize import quantize
from fedtangent.channels.topk import topk
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.transports.memory import memory
from fedtangent.transports.threads import threads
from tests.experiments.test_resume import begun, same
from tests.experiments.tiny import timeless, tiny

LOSSY: dict[str, Any] = {"channel": "topk,quantize", "share": 0.4, "levels": 5, "rounding": "stochastic"}
OWN = '''"""Mine: every number in half of its bytes."""

from fedtangent.federation import Channel


def mine(*, factor: float = 0.5):
    """Halves.

    Args:
        factor: Of every number.
    """
    return Channel(lambda x, draw: x._replace(values=factor * x.values), lambda x: x._replace(bits=x.bits // 2))
'''


@pytest.mark.parametrize("method", ["fedavg", "dfedavg", "fedpart"])
def test_a_run_goes_on_with_what_was_lost(method: str, tmp_path: Path) -> None:
    rounds = {"rounds": 4} if method == "fedpart" else {"rounds": 3}
    coded: dict[str, Any] = {**LOSSY, "feedback": "error", **rounds}
    if method == "fedpart":
        coded |= {"host": "fedprox", "participation": 0.7, "batch": 4}
    whole = run(tiny(method, **coded))
    assert timeless(whole.rounds) != timeless(run(tiny(method, **{**coded, "feedback": "none"})).rounds)
    begun(tiny(method, **coded), tmp_path / "run")
    same(run(tiny(method, **coded), tmp_path / "run", resume=True), whole)


def test_a_run_in_threads_is_recorded_and_goes_on_in_one_process(tmp_path: Path) -> None:
    asked = tiny("fedavg", **LOSSY, feedback="error", engine="sequential")
    whole = run(asked)
    short = tiny("fedavg", **LOSSY, feedback="error", engine="sequential")

    def play(transport: Any) -> Any:
        def stop(entry: dict[str, Any]) -> None:
            if entry["round"] == 1:
                raise RuntimeError("`run` must stop here; got one round. Go on.")

        return run(setup(short, lambda rows: transport), tmp_path / "run", on_round=stop)

    with pytest.raises(RuntimeError, match="stop here"):
        threads(range(5), play)
    same(run(setup(asked, lambda rows: memory()), tmp_path / "run", resume=True), whole)


def test_the_manifest_tells_the_channels_and_their_files(tmp_path: Path) -> None:
    found = run(tiny("fedavg", **LOSSY, direction="up"), tmp_path).manifest
    told = found["experiment"]
    assert told["channel"] == "topk+quantize"
    assert told["channel_options"] == {
        "share": 0.4,
        "entries": "largest",
        "levels": 5,
        "rounding": "stochastic",
        "messages": None,
        "direction": "up",
        "feedback": "none",
    }
    assert [found["sources"][part]["name"] for part in ("channel", "channel 2")] == ["topk.py", "quantize.py"]
    assert "channel" not in run(tiny("fedavg")).manifest["experiment"]


def test_fewer_bytes_up_alone() -> None:
    """Five clients, of which three take part in each of two rounds."""
    plain, coded = run(tiny("fedavg")), run(tiny("fedavg", channel="bfloat16", direction="up"))
    size, clients = plain.manifest["parameters"], 3
    for before, after in zip(plain.rounds, coded.rounds, strict=True):
        assert before["uplink_bytes"] - after["uplink_bytes"] == 2 * size * clients * before["round"]
        assert before["sent_bytes"] - after["sent_bytes"] == 2 * size * clients * before["round"]


def test_a_channel_of_ones_own_and_functions_from_python(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / "mine.py"
    path.write_text(OWN)
    halved = run(tiny("dfedavg", channel=str(path), factor=1.0))
    plain = run(tiny("dfedavg"))
    assert 2 * halved.rounds[-1]["sent_bytes"] == plain.rounds[-1]["sent_bytes"]
    assert all(torch.equal(w, plain.weights[name]) for name, w in halved.weights.items())
    both = run(tiny("dfedavg", channel=[topk, quantize], share=0.4, levels=5))
    same(run(tiny("dfedavg", channel="topk, quantize", share=0.4, levels=5)), both)


def test_quantised_dfedavg_from_the_command_line(tmp_path: Path) -> None:
    words = ["run", "dfedavg", "--rounds", "1", "--nodes", "8", "--epochs", "1", "--channel", "quantize"]
    assert cli.main([*words, "--channel.levels", "255", "--out", str(tmp_path)]) == 0
    (entry,) = (json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines())
    size = json.loads((tmp_path / "manifest.json").read_text())["parameters"]
    tensors, links = 4, 8 * 5
    assert entry["sent_bytes"] == (size + 8 * tensors) * links


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("local", {"channel": "topk"}, "`channel` must be left out for local, which names no message that bears one"),
        ("fedavg", {"channel": "zip"}, "`channel` must be one of bfloat16, quantize, topk; got 'zip'"),
        ("fedavg", {"channel": "topk,topk"}, "`channel` must name each once; got topk, topk. Leave the second out."),
        ("fedavg", {"channel": ""}, "`channel` must be one of bfloat16, quantize, topk; got ''"),
        ("fedavg", {"channel": 3}, "`channel` must be names or functions; got int. Give a name."),
        ("fedavg", {"channel": "topk", "share": 0.0}, "`share` must be in (0, 1]; got 0.0."),
        ("fedavg", {"share": 0.1}, "`share` must be a setting or an option of a chosen part"),
        (
            "ntkfl",
            {"levels": 9},
            "`levels` must have its new name; got ",
        ),
        (
            "ntkfl",
            {"options": {"sparsity": 0.5}},
            "`sparsity` must have its new name; got ",
        ),
        (
            "dfedkfac",
            {"wire": "bfloat16"},
            "`wire` must have its new name; got ",
        ),
        ("ntkdfl", {"decay": 0.1}, "`decay` must have its new name; got "),
        ("fedavg", {"channel": "topk", "messages": ("rows",)}, "`messages` must be of those of fedavg, weights; got"),
        ("fedavg", {"channel": "topk", "direction": "between"}, "`direction` must be one on which a message of fedavg"),
        ("fedavg", {"channel": "topk", "direction": "left"}, "`direction` must be one of all, up, down, between; got"),
        ("fedavg", {"channel": "topk", "feedback": "yes"}, "`feedback` must be 'none' or 'error'; got 'yes'."),
        ("ntkfl", {"channel": "topk", "feedback": "error"}, "`feedback` must be none for 'candidates' of ntkfl"),
        ("fedavg", {"channel_options": {"share": 0.1}}, "`channel_options` must be left out without channel; got"),
    ],
)
def test_what_cannot_be_is_one_sentence(method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        setup(tiny(method, **given))
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(".")
