"""The command line, as `fedtangent` and as `python -m fedtangent`: threads that wait sleep, and Ctrl-C is one word."""

import os
import signal
import sys
from contextlib import suppress
from typing import Any

_LAUNCHED = "FEDTANGENT_LAUNCHED"  # `experiments.launch.LAUNCHED`, without what that imports
WRONG, UNREAD = 2, 141  # what is asked for cannot be, nobody reads on


def main() -> int:
    """The exit code of `fedtangent.cli.main`, which takes a second to import."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read as torch is loaded: spinning, threads fight for cores
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch: finding small pages takes a tenth of a round
    # An exception inside of an import would be swallowed, or turned into another, by whatever is being imported.
    # A rank is told by what has launched it, which may be a command in the background, that hears no Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler or _LAUNCHED in os.environ:
        signal.signal(signal.SIGINT, _stop)
    try:
        if (code := _answered()) is not None:
            return code
        from fedtangent.cli import main as command

        if signal.getsignal(signal.SIGINT) is _stop:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        return _ended(command())
    except BrokenPipeError:
        from fedtangent.front import unread

        unread()
        return UNREAD
    except KeyboardInterrupt:
        _stop()
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _stop)  # nothing is left to do but to end


def _answered() -> int | None:
    """The exit code of what needs no PyTorch, or is refused without it; None for what the command line is to do."""
    from fedtangent.errors import SettingError
    from fedtangent.front import answered, legible, refused
    from fedtangent.parser import dashed
    from fedtangent.reports.schema import printable

    legible()
    try:
        code = answered([dashed(word) for word in sys.argv[1:]])
        sys.stdout.flush()
        if code is None:
            os.getcwd()  # where the folder is gone, the import of PyTorch ends the process
        return code
    except BrokenPipeError:  # as of `fedtangent list | head -1`
        raise
    except (SettingError, OSError) as error:
        if "RANK" in os.environ:  # of which one alone is to print
            return None
        told = refused(error) if isinstance(error, OSError) else str(error)
        print(f"fedtangent: {printable(' '.join(told.split()))}", file=sys.stderr)
        return WRONG


def _ended(code: int) -> int:
    """The exit code; of a rank, whose sockets' threads may still run when those of its peers have ended, the end."""
    if "RANK" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _stop(*_: Any) -> None:
    with suppress(OSError):  # a full disk
        os.write(2, b"fedtangent: stopped.\n")
    os._exit(130)


if __name__ == "__main__":
    raise SystemExit(main())
