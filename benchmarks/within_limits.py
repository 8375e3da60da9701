"""Steps in a process of their own, one after the other: each has a time limit, and none that fails ends the rest."""

import gc
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

Row = dict[str, Any]
Tell = Callable[[Row], None]
START_S, GRACE_S = 120.0, 5.0  # for imports; and for a step to stop by itself
AGAIN_S = 1.0  # after which a step is told again to stop, where the code that it was in ignored the first exception


class Step(NamedTuple):
    """A step of a benchmark.

    Attributes:
        name: In the record.
        run: Called with the settings and with what takes a row of results, which is kept even where the step fails
            later. A function of a module that the other process can import.
        limit_s: The seconds that it may take.
    """

    name: str
    run: Callable[[Any, Tell], None]
    limit_s: float


class End(NamedTuple):
    """How a step ended.

    Attributes:
        state: `done`, `failed` or `stopped`.
        why: One sentence where it is not done.
        peak_gib: The most memory: of the GPU, or on a CPU of the whole process; None where it is unknown.
    """

    state: str
    why: str | None
    peak_gib: float | None


class Over(BaseException):
    """A step's time is over. No Exception, so that no step takes it for one of its own failures."""


class Worker:
    """The process, started when the first step comes, and started anew after it has died or was ended.

    Args:
        settings: Given to every step; has the attribute `device`.
        grace_s: The seconds after the limit that a step may take to stop by itself.
    """

    def __init__(self, settings: Any, grace_s: float = GRACE_S) -> None:
        self._settings, self._grace_s = settings, grace_s
        self._process: Any = None
        self._pipe: Any = None

    def play(self, step: Step, limit_s: float, keep: Tell) -> End:
        """Runs a step for at most so many seconds; `keep` is called with every row as it comes."""
        try:
            self._start()
            self._pipe.send((step, limit_s))
            until = time.monotonic() + limit_s + self._grace_s
            while self._pipe.poll(max(0.0, until - time.monotonic())):
                kind, value = self._pipe.recv()
                if kind == "end":
                    return value  # type: ignore[no-any-return]
                keep(value)
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            return End("failed", f"The process ended with exit code {code}.", None)
        self.close()
        return End("stopped", f"Its limit of {limit_s:g} s was over, and its process had to be ended.", None)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        if self._process is not None and self._process.is_alive():
            return
        self.close()
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, self._settings), daemon=True)
        self._process.start()
        other.close()
        if not self._pipe.poll(START_S):
            raise EOFError
        self._pipe.recv()


def _work(pipe: Connection, settings: Any) -> None:
    """The other process: imports PyTorch, then runs the steps that it is sent."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products; read once, when CUDA starts
    import torch

    torch.zeros(1, device=settings.device)
    pipe.send(("ready", None))
    while True:
        step, limit_s = pipe.recv()
        reset_peak(settings.device)
        state, why = _ended(step, limit_s, settings, pipe)
        peak_gib = None
        alive = True
        try:
            peak_gib = peak(settings.device)
            gc.collect()
            if torch.device(settings.device).type == "cuda":
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
        except RuntimeError:  # an error of the device, after which no call of this process succeeds
            alive = False
        pipe.send(("end", End(state, why, peak_gib)))
        if not alive:
            return


def _ended(step: Step, limit_s: float, settings: Any, pipe: Connection) -> tuple[str, str | None]:
    """State and reason of a step that was run."""

    def tell(row: Row) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # half a message would be the end of all others
        pipe.send(("row", row))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})

    signal.signal(signal.SIGALRM, _over)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, limit_s, AGAIN_S)
            step.run(settings, tell)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    except Over:
        return "stopped", f"Its limit of {limit_s:g} s was over."
    except Exception as error:
        return "failed", sentence(error)
    return "done", None


def _over(number: int, frame: FrameType | None) -> None:
    raise Over


def sentence(error: Exception) -> str:
    """The kind of an error and the first line of what it says, with a full stop."""
    first = (str(error).strip().splitlines() or [""])[0][:400]
    return f"{type(error).__name__}: {first}".rstrip(": .") + "."


def reset_peak(device: str) -> None:
    """Counts the memory at most anew."""
    import torch

    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # where this is not to be had, the peak is that of the process since it began
            Path("/proc/self/clear_refs").write_text("5")


def peak(device: str) -> float:
    """The most memory since it was counted anew, in GiB: of the GPU's tensors, or on a CPU of the whole process."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
