"""Words of the command line become values, or one sentence."""

import pytest

from fedtangent.experiments.options import Option
from fedtangent.parser import Parser, dashed, typed

KNOWN = {"local_lr": Option("local_lr", float, 0.5, "A step."), "plain": Option("plain", bool, False, "Or not.")}


def parser() -> Parser:
    made = Parser("fedtangent try", "100% plain")
    for option in KNOWN.values():
        made.offer(option, option.name)
    return made


def test_values() -> None:
    assert parser().values(["--local-lr", "0.1", "--plain"], KNOWN, "an option") == {"local_lr": "0.1", "plain": True}
    assert parser().values(["--local-lr=--"], KNOWN, "an option") == {"local_lr": "--"}
    assert typed(KNOWN["local_lr"], "0.1") == 0.1 and typed(KNOWN["plain"], True) is True
    assert dashed("--local_lr=a_b") == "--local-lr=a_b" and dashed("a_b") == "a_b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0.1"], "options must have the form --name value; got '0.1' alone. Drop it."),
        (["--local"], "`local` must be an option; got it. Known are local_lr, plain."),
        (["--local-lr"], "`--local-lr` must be given as --help tells; expected one argument."),
    ],
)
def test_errors_are_sentences(words: list[str], message: str) -> None:
    with pytest.raises(ValueError) as told:
        parser().values(words, KNOWN, "an option")
    assert str(told.value).startswith(message.split(";")[0])


def test_help_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    shown = capsys.readouterr().out
    assert "100% plain" in shown and "A step. (default: 0.5)" in shown and "Or not." in shown
