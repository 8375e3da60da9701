"""Deterministic: PyTorch's switches that make two runs on one machine give the same bits, on a GPU too."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

from fedtangent.errors import SettingError
from fedtangent.experiments.experiment import Experiment

CUBLAS, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # with which cuBLAS is deterministic
_NONE = re.compile(r"(\S+) does not have a deterministic implementation")  # PyTorch's words
_lock = Lock()
_runs = 0  # that go on in this process, in threads of their own
_before: tuple[bool, bool, bool, bool] | None = None


def prepare(device: torch.device) -> None:
    """Sets what cuBLAS reads when a process first uses it.

    Raises:
        ValueError: It was used already, without that.
    """
    if device.type != "cuda" or os.environ.get(CUBLAS) in WORKSPACES:
        return
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise SettingError(
            f"`deterministic` must be set before a process first uses its GPU; got one that has, without {CUBLAS}. "
            f"Set that environment variable to {WORKSPACES[0]}, or run this in a new process."
        )
    os.environ[CUBLAS] = WORKSPACES[0]


@contextmanager
def deterministic(experiment: Experiment) -> Iterator[None]:
    """While it is entered: only operations with the same result every time, where the experiment asks for that.

    TF32 stays as PyTorch has it: it rounds more than float32, and always alike.

    Raises:
        ValueError: An operation has no such form.
    """
    if not experiment.deterministic:
        yield
        return
    _enter()
    try:
        yield
    except RuntimeError as error:
        name = _operation(error)
        if name is None:
            raise
        raise SettingError(
            f"`deterministic` must be left out for a model with an operation that has no deterministic form on "
            f"{experiment.device}; got {name}. Replace that operation, or drop `deterministic`."
        ) from error
    finally:
        _leave()


def _enter() -> None:
    global _runs, _before
    with _lock:
        if not _runs:
            cudnn = torch.backends.cudnn
            strict = torch.are_deterministic_algorithms_enabled()
            _before = (
                strict,
                torch.is_deterministic_algorithms_warn_only_enabled(),
                cudnn.deterministic,
                cudnn.benchmark,
            )
            torch.use_deterministic_algorithms(True)
            cudnn.deterministic, cudnn.benchmark = True, False
        _runs += 1


def _leave() -> None:
    global _runs
    with _lock:
        _runs -= 1
        if not _runs:
            assert _before is not None
            torch.use_deterministic_algorithms(_before[0], warn_only=_before[1])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = _before[2:]


def _operation(error: BaseException | None) -> str | None:
    """The operation without a deterministic form that an error, or what it came from, is about."""
    while error is not None:
        if found := _NONE.search(str(error)):
            return found[1]
        error = error.__cause__ or error.__context__
    return None
