"""Completion: what may follow, and the script as a real shell reads it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedtangent import catalog, cli, completion
from fedtangent.parsers import SITE_COMMANDS


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [""],
            ["run", "check", "demo", "report", "recipe", *SITE_COMMANDS, "list", "completion", "--help", "--version"],
        ),
        (["re"], ["report", "recipe", "revoke", "relay"]),
        (["run", ""], catalog.names("methods")),
        (["check", "fedp"], ["fedpart", "fedpm", "fedprox"]),
        (["recipe", "pois"], ["poisson_pinn"]),
        (["recipe", "poisson_pinn", "--wid"], ["--widths"]),
        (["list", "mo"], ["models"]),
        (["list", "models", "mo"], []),
        (["completion", ""], ["bash", "zsh"]),
        (["demo", "--"], ["--help", "--out", "--seed", "--target", "--quiet"]),
        (["run", "ntkdfl", "--selection", ""], ["loss", "linearised", "held-out"]),
        (["run", "ntkdfl", "--method.selection", "l"], ["loss", "linearised"]),
        (["run", "fedavg", "--model", "res"], ["resnet18", "resnet8"]),
        (["run", "fedavg", "--model", "mlp", "--hid"], ["--hidden"]),
        (["run", "fedavg", "--model", "lenet", "--hid"], []),
        (["run", "fedpart", "--host", "moon", "--temp"], ["--temperature"]),
        (["run", "fedavg", "--topo"], []),
        (["run", "dfedavg", "--topo"], ["--topology"]),
        (["run", "dfedavg", "--sta"], ["--static"]),
        (["run", "dfedavg", "--static", "--sta"], []),
        (["run", "fedavg", "--out", ""], []),  # a folder
        (["run", "fedavg", "--lr", "--"], []),  # a number
        (["run", "./absent.py", "--"], []),
        (["run", "fedavg", "--model", "mpl", "--"], []),
        (["nonsense", ""], []),
        (["server", ""], []),  # the folder of a kit
        (["server", "kits/server", "fedk"], ["fedkfac"]),
        (["server", "kits/server", "fedkfac", "--secure"], ["--secure-sums"]),
        (["server", "kits/server", "fedkfac", "--dat"], []),  # rows are the sites'
        (["server", "kits/server", "fedkfac", "--conf"], ["--config"]),
        (["start", "kits/oslo", "ntkdfl", "--selection", "h"], ["held-out"]),
        (["start", "kits/oslo", "dfedavg", "--dat"], ["--dataset", "--data-dir"]),
        (["site", "kits/oslo", "--dataset", "tab"], ["table"]),
        (["site", "kits/oslo", "--dataset", "table", "--col"], ["--columns"]),
        (["site", "kits/oslo", "--col"], []),
        (["site", "kits/oslo", "--state", ""], []),
        (["status", "kits/oslo", "--"], ["--help"]),
        (["revoke", "kits", "--"], []),
        (["provision", "federation.toml", "--"], ["--help", "--out"]),
    ],
)
def test_what_may_follow(words: list[str], expected: list[str]) -> None:
    assert completion.following(words) == expected


def test_every_option_that_follows_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """As help shows them."""
    for method in catalog.names("methods"):
        with pytest.raises(SystemExit):
            cli.main(["run", method, "--help"])
        shown = capsys.readouterr().out
        offered = completion.following(["run", method, "--"])
        assert len(offered) > 20
        assert [name for name in offered if not re.search(rf"^  (-h, )?{name}(,| |$)", shown, re.MULTILINE)] == []


@pytest.mark.parametrize(
    "words",
    [
        ["server", "kit", "fedpart"],
        ["start", "kit", "dfedavg"],
        ["site", "kit"],
        ["site", "kit", "--dataset", "table"],
        ["relay", "kit"],
        ["revoke", "kits", "oslo"],
        ["flower", "app"],
    ],
)
def test_all_that_follows_a_kit_is_what_help_shows(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        cli.main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0
    shown = re.findall(r"^  (?:-h, )?(--[a-z0-9.-]+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(completion.following([*words, "--"])) == sorted({*shown} - {*words})


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "fedtangent").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedtangent "$@"\n', encoding="utf-8")
    (tmp_path / "fedtangent").chmod(0o755)
    typed = """
PATH="$1:$PATH"
source <(fedtangent completion bash)
tried() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _fedtangent; echo "${COMPREPLY[*]}"; }
tried fedtangent ru
tried fedtangent run dfed
tried fedtangent run ntkdfl --kernel ''
complete -p fedtangent
"""
    done = subprocess.run(["bash", "-c", typed, "bash", str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "run",
        "dfedavg dfedkfac dfedsam",
        "trace full",
        "complete -o bashdefault -o default -F _fedtangent fedtangent",
    ]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_completes(tmp_path: Path) -> None:
    """By a key, on a terminal of its own: completion functions run nowhere else."""
    (tmp_path / "fedtangent").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fedtangent "$@"\n', encoding="utf-8")
    (tmp_path / "fedtangent").chmod(0o755)
    typed = """
zmodload zsh/zpty
zpty shell zsh -f -i
say() { zpty -w shell "$1"; }
say "PATH='$1':\\$PATH; PS1=; autoload -Uz compinit; compinit -D -u; source <(fedtangent completion zsh); echo rea''dy"
zpty -r shell out '*ready*'
zpty -w -n shell $'fedtangent server kits/server fedkfac --secu\t; echo en""d\n'
zpty -r shell out '*end*'
print -r -- "$out"
"""
    done = subprocess.run(["zsh", "-f", "-c", typed, "zsh", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert "--secure-sums" in done.stdout


def test_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.endswith("compdef _fedtangent fedtangent\n")
    assert cli.main(["completion", "--help"]) == 0
    assert "SHELL is one of bash, zsh." in capsys.readouterr().out
    for words, got in (([], "nothing"), (["fish"], "fish"), (["bash", "zsh"], "bash zsh")):
        assert cli.main(["completion", *words]) == 2
        assert capsys.readouterr().err == (
            f"fedtangent: `completion` must be of one of bash, zsh; got {got}. Name your shell.\n"
        )
