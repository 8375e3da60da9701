"""The command line, in-process: what each command prints and leaves, and one sentence for whatever is wrong."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedtangent import __version__, catalog, cli
from fedtangent.experiments import run as runs
from fedtangent.experiments.experiment import experiment
from fedtangent.recipes import demo
from tests.experiments.tiny import saved, timeless

OWN = '''"""mine: DFedAvg with a weight on the step."""

from fedtangent.methods.dfedavg import dfedavg


def mine(task, *, alpha: float = 0.1, loud=False):
    """DFedAvg.

    Args:
        task: Model and loss.
        alpha: Step size.
        loud: 100% of the voice.
    """
    return dfedavg(task, lr=alpha, epochs=1)._replace(name="mine")
'''


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    """The words that make a run short."""
    words = ["--dataset", "npz", "--partition", "iid", "--nodes", "5", "--hidden", "6", "--rounds", "2", "--data-dir"]
    return [*words, saved(tmp_path / "data.npz")]


@pytest.fixture
def dfedavg(base: list[str]) -> list[str]:
    return ["run", "dfedavg", "--degree", "2", "--epochs", "1", *base]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a command ends with."""
    assert cli.main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("fedtangent: ")
    return said[-1].removeprefix("fedtangent: ")


def test_a_run_is_recorded_and_told(dfedavg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main([*dfedavg, "--lr=0.2", "--out", str(out), "--target", "0.01"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("dfedavg on data, 5 nodes, 51 parameters, seed 0\nExposure aggregate: the messages hold")
    assert "Rounds to" in told.out
    assert told.out.endswith(f"Recorded in {out}.\n")
    assert re.match(r"dfedavg  round 1/2  accuracy 0\.\d{4}  2.04 kB  [\d.]+ s\n", told.err)
    assert len(told.err.splitlines()) == 2
    assert [entry["round"] for entry in lines(out)] == [1, 2]
    asked = json.loads((out / "manifest.json").read_text())["experiment"]
    assert (asked["options"]["lr"], asked["topology_options"], asked["nodes"]) == (0.2, {"degree": 2}, 5)
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "rounds.jsonl", "model.safetensors", "checkpoint.safetensors",
    }  # fmt: skip


def test_options_may_carry_their_parts_name_or_underscores(dfedavg: list[str], tmp_path: Path) -> None:
    words = ["--method.lr", "0.2", "--model.activation", "tanh", "--gossip_weights=metropolis", "--static"]
    assert cli.main([*dfedavg, *words, "--out", str(tmp_path / "run")]) == 0
    asked = json.loads((tmp_path / "run" / "manifest.json").read_text())["experiment"]
    assert (asked["options"]["lr"], asked["model_options"]["activation"]) == (0.2, "tanh")
    assert (asked["gossip_weights"], asked["static"]) == ("metropolis", True)


def test_a_regression_tells_its_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "local", "--dataset", "npz", "--partition", "iid", "--nodes", "3", "--rounds", "1", "--data-dir"]
    assert cli.main([*words, saved(tmp_path / "sums.npz", classes=0), "--target", "3.5"]) == 0
    told = capsys.readouterr()
    assert "local  round 1/1  loss 0." in told.err
    assert "Lowest" in told.out


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Ctrl-C after the first round's checkpoint."""

    def stop(*given: Any) -> Any:
        result = step(*given)
        if given[-1] == 2:
            raise KeyboardInterrupt
        return result

    step = runs.step
    monkeypatch.setattr(runs, "step", stop)
    return monkeypatch


def test_ctrl_c_and_resume(
    dfedavg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], stopping: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "run")
    assert cli.main([*dfedavg, "--out", out]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"fedtangent: stopped; go on from {out} with --resume."
    assert len(lines(tmp_path / "run")) == 1
    assert cli.main([*dfedavg, "--out", "none"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "fedtangent: stopped; nothing is kept without --out."
    stopping.undo()
    assert "which holds this run. Give --resume or another --out." in refused([*dfedavg, "--out", out], capsys)
    assert "whose seed is 0 and not 1." in refused([*dfedavg, "--seed", "1", "--out", out, "--resume"], capsys)
    assert cli.main([*dfedavg, "--out", out, "--resume"]) == 0
    assert cli.main([*dfedavg, "--out", f"{out}-whole"]) == 0
    assert timeless(lines(tmp_path / "run")) == timeless(lines(tmp_path / "run-whole"))


def test_ctrl_c_before_a_run_begins(dfedavg: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "setup", interrupted)
    assert cli.main(dfedavg) == 130
    assert capsys.readouterr().err == "fedtangent: stopped.\n"


def test_a_torn_checkpoint(dfedavg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert cli.main([*dfedavg, "--out", str(out)]) == 0
    path = out / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    said = refused([*dfedavg, "--out", str(out), "--resume"], capsys)
    assert said.startswith("`out` must hold a whole checkpoint.safetensors; got a damaged one in")


def test_seeds_have_a_folder_each_and_are_one_line_of_the_report(
    dfedavg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    assert cli.main([*dfedavg, "--seeds", "0,2", "--out", str(out)]) == 0
    assert "over 2 seeds" in " ".join(capsys.readouterr().out.split())
    assert sorted(path.name for path in out.iterdir()) == ["seed-0", "seed-2"]
    assert timeless(lines(out / "seed-0")) != timeless(lines(out / "seed-2"))
    page = tmp_path / "page.html"
    assert cli.main(["report", str(out), "--out", str(page), "--target", "0.02"]) == 0
    told = capsys.readouterr().out
    assert told.endswith(f"Written to {page}.\n")
    assert " ± " in told
    assert "dfedavg reaches 0.02 in 1 round." in told
    assert page.read_text().startswith("<!")


@pytest.mark.parametrize("seeds", ["0,0", ","])
def test_seeds_differ(seeds: str, dfedavg: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert refused([*dfedavg, "--seeds", seeds], capsys).startswith("`seeds` must be different numbers, without `seed`")


def test_a_dry_run_runs_nothing(dfedavg: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*dfedavg, "--dry-run", "--out", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert "Bytes       2.04 kB in round 1, 2.04 kB in a later one, 4.08 kB in 2 rounds\nMemory      about" in told.out
    assert re.search(
        r"Time        about \S+ s a round and \S+ s for its evaluation, \S+ s in all, by the vectorized", told.out
    )
    assert told.err == ""
    assert not (tmp_path / "run").exists()


def test_a_method_of_ones_own(base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    words = ["run", str(path), "--degree", "2", *base]
    assert cli.main([*words, "--alpha", "0.3", "--loud", "--out", str(tmp_path / "run")]) == 0
    asked = json.loads((tmp_path / "run" / "manifest.json").read_text())["experiment"]
    assert (asked["method"], asked["options"]) == ("mine", {"alpha": 0.3, "loud": True})
    assert cli.main([*words, "--resume", "--loud", "--alpha", "0.3", "--out", str(tmp_path / "run")]) == 0
    dirichlet = ["--partition", "dirichlet", "--alpha", "0.3"]
    said = refused([*words, *dirichlet], capsys)
    assert said == "`alpha` must say which part it is for; got it alone. Write method.alpha or partition.alpha."
    assert cli.main([*words, *dirichlet[:2], "--method.alpha", "0.3", "--partition.alpha", "9", "--rounds", "1"]) == 0


def test_an_index_file_is_a_partition(dfedavg: list[str], tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps([[0, 1], [2, 3, 4], [5], [6, 7], [8, 9]]))
    assert cli.main([*dfedavg, "--partition", str(path), "--out", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert found["experiment"]["partition"] == "split.json"
    assert found["rows"] == [2, 3, 1, 2, 2]


@pytest.mark.parametrize("partition", [["SPLIT"], ["index_file", "--path", "SPLIT"]])
def test_an_index_file_knows_how_many_nodes_there_are(partition: list[str], dfedavg: list[str], tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps([[0], [1], [2, 3], [4]]))
    at = dfedavg.index("--nodes")
    words = [*dfedavg[:at], *dfedavg[at + 2 :], "--partition", *(w.replace("SPLIT", str(path)) for w in partition)]
    assert cli.main([*words, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["experiment"]["nodes"] == 4


@pytest.mark.parametrize("method", catalog.names("methods"))
def test_help_shows_every_option_of_the_method_once(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", method, "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: fedtangent run {method} [options]\n\n{method}: ")
    for option in cli.options(catalog.load("methods", method)).values():
        (shown,) = re.findall(rf"^  --{option.name.replace('_', '-')}(?![\w-]).*(?:\n   .*)*", told, re.MULTILINE)
        assert " ".join(option.help.split()) in " ".join(shown.split())
    assert "--method." not in told


def test_help_of_a_method_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(SystemExit):
        cli.main(["run", str(tmp_path / "mine.py"), "--help"])
    told = capsys.readouterr().out
    assert "mine: DFedAvg with a weight on the step." in told
    assert "100% of the voice." in told
    assert "--method.alpha" in told


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([], "usage: fedtangent COMMAND ..."),
        (["--help"], "  report      Compare runs: print the table"),
        (["--version"], f"fedtangent {__version__}\n"),
        (["run", "--help"], "METHOD is one of afl, central, dfedavg, "),
        (["list"], "ntkdfl            every node evolves by the tangent kernel"),
        (["list"], "  torus             a grid of rows"),
    ],
)
def test_what_there_is(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert shown in capsys.readouterr().out


def test_a_graph_in_parts_that_stays_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "parts.py").write_text(
        "from fedtangent.federation import Graph\ndef parts(nodes, rng): return Graph([(0, 1), (2, 3)], nodes)\n"
    )
    words = ["run", "dfedavg", "--nodes", "4", "--rounds", "1", "--epochs", "1", "--out", "none"]
    told = "The graph of all rounds falls into parts, whose nodes never hear of one another."
    for its in (["--topology", str(file)], ["--topology", str(file), "--static"], ["--topology", "ring", "--static"]):
        assert cli.main([*words, *its]) == 0
        assert (told in capsys.readouterr().out) == (str(file) in its and "--static" in its)


def test_the_list_is_that_of_the_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    told = capsys.readouterr().out
    assert {name for folder in catalog.FOLDERS for name in catalog.names(folder) if f"\n  {name} " not in told} == {
        "torch_dataset"  # takes objects
    }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rnu"], "`rnu` must be a command; got an unknown name. Did you mean 'run'?"),
        (["fedpart", "--rounds", "9"], "`fedpart` must come after run; got it first. Use fedtangent run fedpart."),
        (["poisson_pinn"], "`poisson_pinn` must come after recipe; got it first. Use fedtangent recipe poisson_pinn."),
        (["run"], "`METHOD` must come first after run; got nothing. Name one of afl, central, dfedavg"),
        (["run", "--lr", "1"], "`METHOD` must come first after run; got '--lr'. Name one of afl"),
        (["run", "ntkdlf"], "`method` must be one of afl, central, dfedavg"),
        (["run", "absent.py"], "`method` must name a file that exists; got 'absent.py'. Check the path."),
        (
            ["run", "local", "--nodez", "3"],
            "`nodez` must be an option of run; got an unknown name. Did you mean 'nodes'?",
        ),
        (
            ["run", "local", "--zz=3"],
            "`zz` must be an option of run; got an unknown name. Drop it, or choose one of seed",
        ),
        (["run", "local", "--options", "3"], "`options` must be an option of run; got an unknown name."),
        (["run", "local", "3"], "options must have the form --name value; got '3' alone. Drop it."),
        (["run", "local", "--"], "options must have the form --name value; got '--' alone. Drop it."),
        (["run", "local", "--out", ""], "`out` must be a path; got ''. Name a folder, or none."),
        (["run", "local", "--config", "~nobody/run.toml"], "`config` must name a file that exists; got '~nobody/run"),
        (["run", "local", "--dataset", "npz", "--data-dir", "~nobody/a.npz"], "`data_dir` must be the path of a .npz "),
        (["run", "local", "--partition", "~nobody/a.npz"], "`path` must name a file that exists; got '~nobody/a.npz'"),
        (["report", "~nobody/run"], "`folder` must be a run's folder; got ~nobody/run, which"),
        (["run", "local", "--lr"], "`--lr` must be given as --help tells; expected one argument."),
        (["run", "local", "--resume=3"], "`--resume` must be given as --help tells; ignored explicit argument '3'."),
        (["run", "local", "--lr", "fast"], "`lr` must be a number; got 'fast'. Give such a value."),
        (["run", "local", "--rounds", "1.5"], "`rounds` must be an integer; got '1.5'. Give such a value."),
        (["run", "local", "--rounds", "-3"], "`rounds` must be at least 1; got -3. Give such a whole number."),
        (["run", "local", "--alpha", "-1"], "`alpha` must be positive and finite; got -1.0. Use 0.1 for strong skew"),
        (
            ["run", "local", "--degree", "3"],
            "`degree` must be left out for local, whose nodes have no neighbours; got 3.",
        ),
        (["run", "local", "--target", "85"], "`target` must be above 0 and at most 1; got 85.0. Give an accuracy as a"),
        (["run", "local", "--seeds", "0", "--seed", "1"], "`seeds` must be different numbers, without `seed` beside"),
        (
            ["run", "local", "--tensorboard", "--out", "none"],
            "`tensorboard` must have a folder to write to; got no `out`. Give --out.",
        ),
        (
            ["run", "dfedavg", "--nodes", "5", "--degree", "3"],
            "`degree` must be even when the number of nodes is odd; got",
        ),
        (["run", "dfedavg", "--nodes", "4"], "`degree` must be at least 1 and below the number of nodes, 4; got 5."),
        (
            ["run", "local", "--dataset", "npz"],
            "`data_dir` must be the path of a .npz file for this data set; got none.",
        ),
        (["run", "local", "--dataset", "torch_dataset"], "`dataset` must be a function of data_dir alone; got torch_"),
        (["report"], "`fedtangent report` must be given as --help tells; the following arguments are required: DIR."),
        (
            ["report", "absent"],
            "`folder` must be a run's folder; got absent, which has no manifest.json. Give the folder",
        ),
        (
            ["run", "local", "--nodes", "100000000"],
            "`nodes` must be from 1 to the number of training rows, 1437; got 10",
        ),
        (["run", "local", "--hidden", "100000000000"], "`model` must fit into memory; got RuntimeError: "),
        (["run", "local", "--hidden", f"{2**62}"], "`model` must fit into memory; got RuntimeError: "),
        (["run", "local", "--seed", "9" * 19], "`seed` must be an integer; got '9999999999999999999'. Give such"),
        (["report", "--out", "/dev/null/x.html", "absent"], "`out` must be a file that can be written; got '/dev/null"),
        (["demo", "--out", "/"], "`out` must be a file that can be written; got '/' (Is a directory). Name another."),
        (["run", "local", "--out", 300 * "x"], "`path` must be one that can be used; got 'xxxx"),
        (["demo", "--target", "2"], "`target` must be above 0 and at most 1; got 2.0."),
        (["demo", "now"], "options must have the form --name value; got 'now' alone. Drop it."),
        (["list", "--all"], "`all` must be an option of list; got an unknown name. Drop it: there are none."),
    ],
)
def test_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(words, capsys).startswith(sentence)


def test_a_data_set_that_is_neither_there_nor_in_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision.datasets import FashionMNIST

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    said = refused(["run", "local", "--dataset", "fashion_mnist", "--data-dir", str(tmp_path / "absent")], capsys)
    assert said.startswith("`data_dir` must hold FashionMNIST/raw/ with the four idx files")


def test_a_failing_node(dfedavg: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedtangent.training.solvers.trees.zeros_like", lambda w: 1 / 0)
    said = refused(dfedavg, capsys)
    assert "failed in 'solve' of dfedavg, round 1: ZeroDivisionError: division by zero" in said


def test_a_full_disk(dfedavg: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = refused([*dfedavg, "--out", str(tmp_path / "run")], capsys)
    assert re.match(
        r"`out` must be a folder that can be written; got .*run \(No space left on device, at manifest", said
    )


@pytest.mark.parametrize("fault", [TypeError("int is not iterable"), ValueError("too many values"), KeyError("w_k")])
def test_a_fault_of_the_program_keeps_its_traceback(
    fault: Exception, dfedavg: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any, **more: Any) -> None:
        raise fault

    monkeypatch.setattr(cli, "setup", broken)
    with pytest.raises(type(fault)):
        cli.main(dfedavg)


def test_every_rule_of_the_package_is_told_by_its_type() -> None:
    """A message with a rule, or with a name in backticks, is for the user; so the command line knows by the type."""
    plain = {"ValueError", "TypeError"}
    for path in Path(cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                kind, said = ast.unparse(node.exc.func), ast.unparse(node.exc.args[0])
                place = (str(path), node.lineno)
                assert kind not in plain or not (" must " in said or "`" in said), place
                text = isinstance(node.exc.args[0], ast.Constant | ast.JoinedStr) and "{rule}" not in said
                assert not (kind.startswith("Setting") and text) or " must " in said, place


def test_what_a_dependency_says_must_be_is_a_fault(dfedavg: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> None:
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setattr(cli, "setup", broken)
    with pytest.raises(RuntimeError):
        cli.main(dfedavg)


@pytest.mark.parametrize("fault", [MemoryError("Unable to allocate"), RuntimeError("not enough memory: you tried to")])
def test_what_does_not_fit_into_memory_is_one_sentence(
    fault: Exception, dfedavg: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(*given: Any, **more: Any) -> None:
        raise fault

    monkeypatch.setattr(cli, "setup", large)
    assert refused(
        dfedavg, capsys
    ) == f"memory must hold what is computed; got {fault}. Take a smaller model, fewer " + ("nodes or fewer rows.")


def test_what_is_told_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(["run", "local", "--dataset", "\x1b]0;pwned\x07\x9b31m"], capsys)
    assert "pwned" in told and "\x1b" not in told and "\x9b" not in told


def test_a_name_that_is_no_text_is_written_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a file whose name is not UTF-8."""
    assert "must name a file that exists" in refused(["run", "\udcff.py"], capsys)


def test_a_reader_that_has_had_enough_ends_the_command() -> None:
    code = "import sys; from fedtangent import cli; sys.exit(cli.main(['list']))"
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None and command.stderr is not None
    command.stdout.close()
    with command.stderr:
        assert (command.stderr.read(), command.wait()) == (b"", 141)


def test_a_report_finds_seeds_below_and_says_what_it_leaves_out(
    dfedavg: list[str], base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*dfedavg, "--out", str(tmp_path / "runs" / "a")]) == 0
    assert cli.main(["run", "local", *base, "--seeds", "0,1", "--out", str(tmp_path / "runs" / "b")]) == 0
    recipe = tmp_path / "runs" / "poisson_pinn"
    recipe.mkdir()
    (recipe / "manifest.json").write_text("{}")
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "page.html")]) == 0
    told = capsys.readouterr()
    assert told.err == f"{recipe} is left out: it has no rounds.jsonl, so it is a recipe's or of no run.\n"
    assert "dfedavg" in told.out and "local" in told.out and "over the seeds: dfedavg 1, local 2" in told.out


def test_a_bar_on_a_terminal(dfedavg: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr(Console, "is_terminal", property(lambda console: console.stderr))
    assert cli.main(dfedavg) == 0
    assert "round 2/2  accuracy 0." in capsys.readouterr().err


def test_the_demo_writes_its_page(tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {**demo.SHARED, "rounds": 1, "nodes": 6}
    monkeypatch.setattr(
        demo,
        "experiments",
        lambda seed: [experiment(m, seed=seed, **short, epochs=1) for m in ("fedavg", "local")],
    )
    page = tmp_path / "new" / "page.html"
    assert cli.main(["demo", "--out", str(page), "--seed", "3"]) == 0
    told = capsys.readouterr()
    assert told.out.endswith(f"Written to {page}.\n")
    assert "fedavg  round 1/1" in told.err
    assert "fedavg and local on digits" in page.read_text()
    assert cli.main(["demo", "--out", str(page), "--quiet"]) == 0
    told = capsys.readouterr()
    assert told.err == "" and told.out.endswith(f"Written to {page}.\n")


@pytest.mark.parametrize("words", [["demo"], ["report", "none"]])
def test_ones_own_page_is_kept_and_nothing_is_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("<p>Mine.</p>")
    told = refused([*words, "--out", str(mine)], capsys)
    assert told == (
        f"`out` must not be a file that is no report of fedtangent's; got '{mine}'. Name another by --out, or move "
        "that file away."
    )
    assert mine.read_text() == "<p>Mine.</p>"


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, fedtangent; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_that_the_package_has_not() -> None:
    import fedtangent

    with pytest.raises(AttributeError, match=r"^module 'fedtangent' has no attribute 'lod'$"):
        _ = fedtangent.lod
    assert all(getattr(fedtangent, name) for name in fedtangent.__all__)
