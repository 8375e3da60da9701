"""Liars and rules in whole runs: chosen by name or of one's own, on the record, gone on with; what cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fedtangent import cli
from fedtangent.attacks.sign_flip import sign_flip
from fedtangent.catalog import names
from fedtangent.experiments.dry_run import dry_run
from fedtangent.experiments.run import run
from fedtangent.experiments.setup import setup
from fedtangent.rules.trimmed_mean import trimmed_mean
from fedtangent.transports.threads import threads
from tests.experiments.test_resume import begun, same
from tests.experiments.tiny import ROWS, data, partition, timeless, tiny
from tests.often import often

NODES = len(ROWS)
OWN = '''"""Mine: {what}."""

import torch
from fedtangent.federation import Attack, Rule


def mine(*, much: float = 3.0):
    """{what}.

    Args:
        much: How much.
    """
    return {made}
'''


def liars(method: str = "dfedavg", **settings: Any) -> Any:
    return tiny(method, **{"attack": "sign_flip", "who": (1,), **settings})


@pytest.mark.few(5)
@pytest.mark.parametrize("method", often(["fedavg", "dfedavg", "ntkdfl", "dfedkfac"], ["dfedavg", "dfedkfac"]))
@pytest.mark.parametrize("attack", [name for name in names("attacks") if name != "dissensus"])
def test_every_attack_changes_what_the_others_learn(method: str, attack: str) -> None:
    """Five nodes in a ring: what ALIE's own bound leaves of it, among two neighbours, is the mean."""
    options = {"attack.factor": 4.0} if attack == "sign_flip" else {"z": 2.0} if attack == "alie" else {}
    found, honest = run(tiny(method, attack=attack, who=(1,), **options)), run(tiny(method))
    assert any(not torch.equal(w, honest.weights[name]) for name, w in found.weights.items())
    assert all(w.isfinite().all() for w in found.weights.values())
    assert found.manifest["liars"] == [1]


@pytest.mark.few(2)
@pytest.mark.parametrize(("method", "rule", "options"), [
    ("fedavg", "trimmed_mean", {"participation": 1.0}),
    ("dfedavg", "cs_plus", {"topology": "complete"}),
    ("dfedkfac", "clipping", {}),
    ("ntkdfl", "median", {}),
    ("fedkfac", "norm_clipping", {"guard": False}),
])  # fmt: skip
def test_a_run_goes_on_to_the_same_record(method: str, rule: str, options: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {"attack": "noise", "deviation": 0.3, "who": (3,), "rule": rule, "rounds": 3, **options}
    whole = run(tiny(method, **asked))
    begun(tiny(method, **asked), tmp_path / "run")
    same(run(tiny(method, **asked), tmp_path / "run", resume=True), whole)


@pytest.mark.parametrize("method", often(["scaffold", "dfedavg", "dfedkfac"], ["dfedavg"]))
def test_every_node_in_a_thread_of_its_own_gives_the_same(method: str) -> None:
    asked = tiny(method, attack="alie", z=0.5, who=(1,), rule="median", engine="sequential", **(
        {"participation": 1.0} if method == "scaffold" else {}
    ))  # fmt: skip
    whole = run(asked)
    found = threads(range(NODES), lambda transport: run(setup(asked, lambda rows: transport)))[0]
    assert timeless(found.rounds) == timeless(whole.rounds)


@pytest.mark.parametrize(
    ("method", "rule"), [("dfedavg", "geometric_median"), ("dfedkfac", "clipping"), ("ntkdfl", "median")]
)
def test_the_engines_agree(method: str, rule: str) -> None:
    asked: dict[str, Any] = {"attack": "noise", "deviation": 0.1, "who": (1,), "rule": rule, "dtype": "float64"}
    one, many = (run(tiny(method, engine=engine, **asked)) for engine in ("sequential", "vectorized"))
    for name, w in many.weights.items():
        torch.testing.assert_close(w, one.weights[name], rtol=1e-9, atol=1e-9)


def test_label_flip_is_in_the_liar_s_rows_alone() -> None:
    honest, false = setup(tiny()), setup(tiny(attack="label_flip", who=(2,)))
    for node, (own, other) in enumerate(zip(honest.data, false.data, strict=True)):
        assert torch.equal(other.y, 2 - own.y if node == 2 else own.y)


def test_accuracies_are_of_the_honest() -> None:
    """A node whose own model is broken is no part of the aggregate, nor of the nodes' mean."""
    honest = run(tiny("dfedavg", topology="complete", rounds=1))
    false = run(tiny("dfedavg", topology="complete", rounds=1, attack="nan", who=(4,)))
    assert torch.isfinite(torch.tensor(false.rounds[0]["loss"]))
    assert false.rounds[0]["mean_node_accuracy"] is not None
    left = [i for i in range(NODES) if i != 4]
    fleet = setup(liars(who=(4,)))
    assert fleet.honest(fleet.fleet(1, fleet.wire())).nodes == tuple(left)
    assert honest.rounds[0]["sent_bytes"] == false.rounds[0]["sent_bytes"]


def test_a_share_beside_those_who_lie_is_refused() -> None:
    assert setup(tiny(attack="nan", share=0.1, who=(1,))).liars is not None  # as a manifest has it
    with pytest.raises(ValueError, match=r"^`share` must be left out where `who` names those that lie; got 0.5\. Drop"):
        setup(tiny(attack="nan", share=0.5, who=(1,)))


def test_liars_are_drawn_by_the_seed() -> None:
    drawn = [setup(tiny(attack="nan", share=0.4, seed=seed)).liars for seed in range(8)]
    assert all(found is not None and len(found.nodes) == 2 for found in drawn)
    assert len({found.nodes for found in drawn if found}) > 2
    again = setup(tiny(attack="nan", share=0.4, seed=0)).liars
    assert again is not None and drawn[0] is not None and again.nodes == drawn[0].nodes
    assert len(setup(tiny(attack="nan", share=0.01)).liars.nodes) == 1  # type: ignore[union-attr]


def test_the_manifest_tells_attack_and_rule_and_their_files(tmp_path: Path) -> None:
    found = run(liars(rule="krum", degree=4, chosen=2), tmp_path).manifest
    told = found["experiment"]
    assert (told["attack"], told["attack_options"]) == ("sign_flip", {"factor": 1.0, "share": 0.1, "who": [1]})
    assert (told["rule"], told["rule_options"]) == ("krum", {"liars": 1, "chosen": 2, "groups": 1, "sums": "clip"})
    assert [found["sources"][part]["name"] for part in ("attack", "rule")] == ["sign_flip.py", "krum.py"]
    assert (found["rule_sees"], found["liars"]) == ("single messages", [1])
    plain = run(tiny()).manifest
    assert not {"attack", "rule"} & plain["experiment"].keys() and not {"rule_sees", "liars"} & plain.keys()


def test_those_of_ones_own_and_functions_from_python(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    (folder / "attacks").mkdir(parents=True)
    lie, bear = folder / "attacks" / "mine.py", folder / "mine.py"
    lie.write_text(OWN.format(what="Flips", made="Attack(lambda told: -much * told.own)"))
    bear.write_text(OWN.format(what="Sums", made="Rule(lambda given: given.weights @ given.x, None, lambda f: 1)"))
    own = run(tiny(attack=str(lie), attack_options={"much": 2.0, "who": (1,)}, rule=str(bear)))
    ours = run(tiny(attack=sign_flip, attack_options={"factor": 2.0, "who": (1,)}))
    for name, w in own.weights.items():
        torch.testing.assert_close(w, ours.weights[name], rtol=1e-5, atol=1e-6)
    same(run(tiny(rule=trimmed_mean, liars=1)), run(tiny(rule="trimmed_mean", liars=1)))


@pytest.mark.few(2)
@pytest.mark.parametrize("method", ["dfedavg", "dfedkfac", "fedavg", "fedkfac"])
def test_a_rule_that_trims_nothing_is_the_plain_average(method: str) -> None:
    server = {"participation": 1.0} if method == "fedavg" else {"guard": False} if method == "fedkfac" else {}
    plain, ruled = (
        run(tiny(method, dtype="float64", **server, **its)) for its in ({}, {"rule": "trimmed_mean", "liars": 0})
    )
    for name, w in ruled.weights.items():
        torch.testing.assert_close(w, plain.weights[name], rtol=1e-8, atol=1e-8)
    assert [entry["sent_bytes"] for entry in ruled.rounds] == [entry["sent_bytes"] for entry in plain.rounds]


def test_groups_are_summed_before_the_rule_sees_them() -> None:
    """Five clients by threes are one group, and the average of one is itself: the plain mean."""
    plain = run(tiny("fedavg", participation=1.0, dtype="float64"))
    asked: dict[str, Any] = {"participation": 1.0, "dtype": "float64", "rule": "median", "groups": 3}
    found = run(tiny("fedavg", **asked))
    for name, w in found.weights.items():
        torch.testing.assert_close(w, plain.weights[name], rtol=1e-9, atol=1e-9)
    assert found.manifest["rule_sees"] == "sums over groups of 3 clients"
    asked |= {"groups": 2, "engine": "sequential"}
    whole = run(tiny("fedavg", **asked))
    apart = threads(range(NODES), lambda transport: run(setup(tiny("fedavg", **asked), lambda rows: transport)))[0]
    assert timeless(apart.rounds) == timeless(whole.rounds)


def test_a_dry_run_foresees_the_bytes() -> None:
    asked = liars("dfedkfac", rule="median")
    assert dry_run(setup(asked)).total_bytes == run(asked).rounds[-1]["sent_bytes"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "dfedavg", "--rounds", "1", "--nodes", "8", "--epochs", "1", "--attack", "sign_flip"]
    words += ["--attack.share", "0.2", "--rule", "trimmed_mean", "--liars", "2", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert f"Attack sign_flip: the nodes {manifest['liars'][0]} lie.\n" in told
    assert "Rule trimmed_mean: it sees single messages, which secure sums would hide.\n" in told
    assert cli.main(["run", "dfedavg", "--config", str(tmp_path / "manifest.json"), "--out", str(tmp_path / "b")]) == 0
    again = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert again["experiment"] == manifest["experiment"] and again["liars"] == manifest["liars"]
    with pytest.raises(SystemExit):
        cli.main(["run", "dfedavg", "--attack", "alie", "--rule", "krum", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("the attack:", "--z", "--who", "the rule:", "--chosen", "--groups"))


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        ("local", {"attack": "nan"}, "`attack` must be left out for local, whose nodes send nothing; got nan."),
        ("fedavg", {"attack": "dissensus"}, "`attack` must be one that needs no neighbours for fedavg, which has a"),
        ("dfedavg", {"attack": "lies"}, "`attack` must be one of alie, dissensus, inner_product, label_flip, nan,"),
        ("dfedavg", {"attack": 3}, "`attack` must be a name or an object of its kind; got int."),
        ("dfedavg", {"attack": "nan", "share": 1.0}, "`share` must be in (0, 1); got 1.0."),
        ("dfedavg", {"attack": "nan", "who": (5,)}, "`who` must name some of the nodes from 0 to 4, each once and not"),
        ("dfedavg", {"attack": "nan", "who": (1, 1)}, "`who` must name some of the nodes from 0 to 4, each once and"),
        ("dfedavg", {"attack": "nan", "who": (0, 1, 2, 3, 4)}, "`who` must name some of the nodes from 0 to 4, each"),
        ("dfedavg", {"attack": "nan", "who": ()}, "`who` must name some of the nodes from 0 to 4, each once and not"),
        ("dfedavg", {"attack_options": {"share": 0.1}}, "`attack_options` must be left out without attack; got share."),
        ("dfedavg", {"attack": lambda: 3}, "`attack` must give an Attack; got int. Return fedtangent.federation."),
        ("dfedavg", {"rule": lambda: 3}, "`rule` must give a Rule; got int. Return fedtangent.federation.Rule(...)."),
        ("dfedavg", {"rule": "mean"}, "`rule` must be one of clipping, cs_plus, geometric_median, krum, median,"),
        ("local", {"rule": "median"}, "`rule` must be left out for local, which averages no messages; got median."),
        ("ntkfl", {"rule": "median"}, "`rule` must be left out for ntkfl, which averages no messages; got median."),
        ("fedavg", {"rule": "cs_plus"}, "`rule` must be one without a centre of its own for fedavg, which has a"),
        ("dfedavg", {"rule": "krum"}, "`rule` must have at least 5 messages for 1 liars; got 3 in a neighbour"),
        ("dfedavg", {"rule": "trimmed_mean", "liars": 2}, "`rule` must have at least 5 messages for 2 liars; got 3 in"),
        ("fedavg", {"rule": "krum", "liars": 1}, "`rule` must have at least 5 messages for 1 liars; got 3 in a round."),
        ("dfedavg", {"rule": "median", "groups": 2}, "`groups` must be 1 for dfedavg, which has no server; got 2."),
        ("fedavg", {"rule": "median", "sums": "all"}, "`sums` must be one of screen, clip, rule; got 'all'."),
        ("fedavg", {"rule": "median", "groups": 0}, "`groups` must be at least 1; got 0."),
        ("fedavg", {"rule": "trimmed_mean", "liars": 0, "attack": "nan", "who": (1, 2)}, "`rule` must tolerate the"),
        ("dfedavg", {"rule": "trimmed_mean", "liars": 0, "attack": "nan"}, "`rule` must tolerate the liars there are,"),
        ("fedkfac", {"rule": "median"}, "`guard` must be off under a rule, which sees parts of the sums that it"),
        ("dfedkfac", {"rule": "median", "guard": True}, "`guard` must be off under a rule, which sees parts of the"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(method: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        setup(tiny(method, **given))
    assert str(caught.value).startswith(message)
    assert str(caught.value)[-1] in ".?"
    assert str(caught.value).count("\n") == 0


def test_labels_cannot_be_flipped_in_a_regression() -> None:
    with pytest.raises(ValueError, match=r"^`attack` must be another in a regression, which has no labels; got label_"):
        setup(tiny(dataset=data(classes=0), partition=partition(), attack="label_flip"))
