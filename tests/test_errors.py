"""A user's mistake is known by its type, and stays a ValueError or TypeError for who catches those."""

from pathlib import Path

import pytest

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


def test_any_other_error_of_an_own_method_keeps_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(error="ValueError"))
    with pytest.raises(ValueError, match="at most 1"):
        cli.main(["run", str(path), "--lr", "7", "--rounds", "1"])
