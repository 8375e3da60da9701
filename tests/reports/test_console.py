"""The console that prints tables and progress."""

import io

import pytest

from fedtangent.reports.console import Console


class Gone(io.StringIO):
    """What nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_is_for_the_command_line_to_end_by() -> None:
    with pytest.raises(BrokenPipeError):
        Console(file=Gone()).print("a line")
