"""Console: what prints tables and progress; a reader that has gone is the BrokenPipeError that it is."""

from typing import NoReturn

from rich import console


class Console(console.Console):
    """Rich's console, which otherwise ends the process by itself where nobody reads on."""

    def on_broken_pipe(self) -> NoReturn:
        """Raises what the system has said, for the command line to end by."""
        raise BrokenPipeError
