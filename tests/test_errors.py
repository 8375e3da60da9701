"""A user's mistake is known by its type, and stays a ValueError or TypeError for who catches those."""

from pathlib import Path

import pytest

import fedtangent
from fedtangent import cli
from fedtangent.errors import SettingError, SettingTypeError, UserError

OWN = '''"""mine: fedavg, but not with every lr."""

from fedtangent.errors import SettingError
from fedtangent.methods.fedavg import fedavg


def mine(task, *, lr: float = 0.1):
    """FedAvg."""
    if lr > 1:
        raise {error}("`lr` must be at most 1; got much. Take 0.1.")
    return fedavg(task, lr=lr)
'''


def test_they_are_what_python_calls_them() -> None:
    assert issubclass(SettingError, ValueError) and issubclass(SettingTypeError, TypeError)
    assert not issubclass(SettingTypeError, ValueError)
    assert issubclass(SettingError, UserError) and issubclass(SettingTypeError, UserError)


def test_messages_that_hold_an_error_s_type_name_the_one_that_is_known() -> None:
    assert (type(SettingError()).__name__, type(SettingTypeError()).__name__) == ("ValueError", "TypeError")


def test_an_own_method_tells_a_mistake_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(error="SettingError"))
    assert cli.main(["run", str(path), "--lr", "7", "--rounds", "1"]) == 2
    assert capsys.readouterr().err == "fedtangent: `lr` must be at most 1; got much. Take 0.1.\n"


def test_any_other_error_of_an_own_method_is_told_with_its_line_and_from_python_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(error="ValueError"))
    assert cli.main(["run", str(path), "--lr", "7", "--rounds", "1"]) == 2
    assert capsys.readouterr().err == (
        f"fedtangent: `{path}` must run; got ValueError at line 10: `lr` must be at most 1; got much. Take 0.1. Mend "
        "the file; fedtangent.run from Python shows the whole traceback.\n"
    )
    with pytest.raises(ValueError, match="at most 1") as caught:
        fedtangent.run(str(path), lr=7, rounds=1)
    assert not isinstance(caught.value, UserError)
