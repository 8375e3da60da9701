"""Settings from a file: the same run as when they are typed, and one sentence for what is wrong with the file."""

import json
from pathlib import Path
from typing import Any

import pytest

from fedtangent import __version__, cli
from tests.experiments.tiny import saved, timeless

TOML = """
fedtangent = "VERSION"
method = "dfedavg"
dataset = "npz"
data-dir = "DATA"
nodes = 5
rounds = 2
degree = 2
epochs = 1
partition = "iid"

[model_options]
hidden = [6, 4]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    text = TOML.replace("VERSION", __version__).replace("DATA", saved(tmp_path / "data.npz"))
    path.write_text(text, encoding="utf-8")
    return path


def told(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return json.loads((folder / "manifest.json").read_text())["experiment"], timeless(rounds)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    return capsys.readouterr().err.splitlines()[-1].removeprefix("fedtangent: ")


def test_a_file_is_what_could_be_typed(file: Path, tmp_path: Path) -> None:
    words = ["--dataset", "npz", "--data-dir", str(tmp_path / "data.npz"), "--nodes", "5", "--rounds", "2"]
    words += ["--degree", "2", "--epochs", "1", "--partition", "iid", "--hidden", "6,4"]
    assert cli.main(["run", "dfedavg", *words, "--out", str(tmp_path / "typed")]) == 0
    assert cli.main(["run", "--config", str(file), "--out", str(tmp_path / "read")]) == 0
    assert told(tmp_path / "read") == told(tmp_path / "typed")


def test_what_is_typed_wins_and_a_manifest_is_a_file_too(file: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    typed = ["--rounds", "1", "--lr", "0.05", "--seed", "3"]
    assert cli.main(["run", "--config", str(file), *typed, "--out", str(first)]) == 0
    experiment = told(first)[0]
    assert (experiment["rounds"], experiment["options"]["lr"], experiment["seed"]) == (1, 0.05, 3)
    # a manifest holds no path: the data's place is typed; a folder stands for its manifest
    data = ["--dataset", "npz", "--data-dir", str(tmp_path / "data.npz")]
    assert cli.main(["run", "--config", str(first), *data, "--out", str(again)]) == 0
    assert told(again) == told(first)
    longer = ["--rounds", "2", "--resume", "--out", str(again)]
    assert cli.main(["run", "--config", str(first / "manifest.json"), *data, *longer]) == 0
    assert len(told(again)[1]) == 2


@pytest.mark.parametrize("method", ["ntkdfl", "fedpart", "fedopt"])
def test_a_manifest_runs_again(method: str, tmp_path: Path) -> None:
    """With hosts, channels, options of every kind and everything that was resolved."""
    words = ["--nodes", "4", "--hidden", "5", "--rounds", "1", "--alpha", "1e6", "--class-weights", "balanced"]
    words += {
        "ntkdfl": ["--degree", "2", "--times", "2,9", "--topology", "regular"],
        "fedpart": ["--host", "fedprox", "--warm-up", "0", "--rounds-per-group", "1", "--rounds", "2", "--mu", "0.2"],
        "fedopt": ["--channel", "topk,quantize", "--share", "0.5", "--messages", "weights", "--deterministic"],
    }[method]
    assert cli.main(["run", method, *words, "--out", str(tmp_path / "a")]) == 0
    assert cli.main(["run", "--config", str(tmp_path / "a"), "--out", str(tmp_path / "b")]) == 0
    assert told(tmp_path / "b") == told(tmp_path / "a")


OWN = {
    "method": (
        "fedavg",
        "from fedtangent.methods.fedavg import fedavg as f\ndef fedavg(task): return f(task, lr=0.01)",
    ),
    "model": ("linear", "from torch import nn\ndef linear(inputs, outputs, rng): return nn.Linear(4, outputs)"),
    "channel": ("bfloat16", "from fedtangent.channels.bfloat16 import bfloat16"),
    "metric": ("f1", "def f1(outputs, labels): return 0.5"),
}


@pytest.mark.parametrize("part", OWN)
def test_a_file_of_ones_own_is_not_taken_for_the_packages(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, text = OWN[part]
    (file := tmp_path / f"{name}.py").write_text(text + "\n")
    data = ["--dataset", "npz", "--data-dir", saved(tmp_path / "data.npz"), "--out"]
    own, run = ([str(file)], []) if part == "method" else ([f"--{part}", str(file)], ["fedavg"])
    words = ["run", *run, *own, "--nodes", "4", "--rounds", "1", *data]
    assert cli.main([*words, str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "a/manifest.json").read_text())["named_alike"] == [part]
    again = ["--config", str(tmp_path / "a"), *data]
    line = refused(["run", *again, str(tmp_path / "b")], capsys)
    assert line.startswith(f"`{part}` must be told beside ") and f"the package's, {name}; got none." in line
    assert cli.main(["run", *own, *again, str(tmp_path / "b")]) == 0
    assert told(tmp_path / "b") == told(tmp_path / "a")
    named = [name] if part == "method" else [f"--{part}", name]
    assert cli.main(["run", *named, *again, str(tmp_path / "c")]) == 0
    assert cli.main([*words, str(tmp_path / "a"), "--resume"]) == 0


def test_another_part_leaves_its_options_in_the_file(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--model", "linear", "--out", str(out), "--seeds", "0,1"]
    assert cli.main(["run", "--config", str(file), *words]) == 0
    assert told(out / "seed-1")[0]["model_options"] == {}
    # from a manifest another method, without the options of the first; and its seed makes room for seeds
    words = ["--dataset", "npz", "--data-dir", str(tmp_path / "data.npz"), "--out", str(tmp_path / "other")]
    assert cli.main(["run", "local", "--config", str(out / "seed-1"), *words, "--seeds", "4,5", "--quiet"]) == 0
    assert told(tmp_path / "other" / "seed-4")[0]["method"] == "local"


def test_help_beside_a_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "dfedavg", "--config", str(file), "--help"])
    assert "--config CONFIG" in capsys.readouterr().out
    assert cli.main(["check", "--config", str(file), "--rounds", "1"]) == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lrr = 3", "`lrr` must be a setting of run; got an unknown name. Did you mean 'lr'?"),
        ("[model_options]\nwidth = 3", "`model.width` must be a setting of run; got an unknown name. "),
        ("[model]\nhidden = 3", "`model` must not be a table of run.toml; got one. Use options, host_options, "),
        ("fedtangent = '0.1.0'", f"`config` must be of this version, {__version__}; got one of '0.1.0' in "),
        ("lr = 'fast'", "`lr` must be a number; got 'fast'. Give such a value."),
        ("rounds = 1.5", "`rounds` must be an integer; got '1.5'. Give such a value."),
        ("seed = true", "`seed` must be an integer; got 'true'. Give such a value."),
        ("rounds = 1979-05-27", "`rounds` must be a number, a text or a list; got date. Write one."),
        ("rounds = ", "`config` must be TOML; got "),
        ("dataset = 'digts'", "`dataset` must be one of agnews, "),
    ],
)
def test_one_sentence(text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text + "\n", encoding="utf-8")
    assert refused(["run", "fedavg", "--config", str(path)], capsys).startswith(sentence)


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(["run", "--config", "no.toml"], capsys) == (
        "`config` must name a file that exists; got 'no.toml'. Check the path."
    )
    yaml = tmp_path / "run.yaml"
    yaml.write_text("a: 1")
    assert refused(["run", "--config", str(yaml)], capsys).startswith("`config` must be a .toml file or a run's mani")
    manifest = tmp_path / "manifest.json"
    for text in ("{", "[]", '{"experiment": {}}', '{"versions": {"fedtangent": "1"}}', "[" * 100_000, "\x80"):
        manifest.write_text(text, encoding="latin-1")
        sentence = refused(["run", "--config", str(manifest)], capsys)
        assert sentence.startswith("`config` must be the whole manifest.json of a run; got something else in ")
    manifest.write_text(json.dumps({"experiment": {"method": "local"}, "versions": {"fedtangent": "0.1.0"}}))
    assert refused(["run", "--config", str(tmp_path)], capsys).endswith(
        "Check its settings and write them into a .toml file."
    )
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    assert refused(["run", "--config", str(empty)], capsys).startswith("`METHOD` must come first after run; got '--co")
    (tmp_path / "latin.toml").write_bytes(b"method = '\xff'")
    assert refused(["run", "--config", str(tmp_path / "latin.toml")], capsys).startswith("`config` must be TOML; got ")


def test_a_file_with_a_mark_of_its_encoding_in_a_folder_below_home(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert cli.main(["run", "--config=~/run.toml", "--out=~/runs/a"]) == 0
    assert told(tmp_path / "runs/a")[0]["rounds"] == 2
    assert not (tmp_path / "~").exists()
