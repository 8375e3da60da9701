"""`python -m` in a process that is forked from one which has imported the command line: seconds sooner than anew.

`Popen` has of subprocess.Popen what `experiments.launch` and the tests use.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])
_ROOT = Path(__file__).parents[1]
_STREAMS = ("stdin", "stdout", "stderr")


class Popen:
    """`python -m` of a module; a stream that is not given is this process's own."""

    stdin: IO[Any] | None = None
    stdout: IO[Any] | None = None
    stderr: IO[Any] | None = None

    def __init__(
        self,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        text: bool = True,
        **streams: int | None,
    ) -> None:
        assert [*words[:2]] == [sys.executable, "-m"]
        self.words, theirs = words, []
        for number, name in enumerate(_STREAMS):
            if (given := streams.get(name)) == subprocess.PIPE:
                read, write = os.pipe()
                own, other, mode = (write, read, "w") if name == "stdin" else (read, write, "r")
                setattr(self, name, os.fdopen(own, mode))
            else:
                other = os.open(os.devnull, os.O_RDWR) if given == subprocess.DEVNULL else os.dup(number)
            theirs.append(_Stream(other))
        variables = dict(os.environ if env is None else env)
        with chdir(_ROOT):  # from where the tests are found
            forkserver.ensure_running()
        self._process = _CONTEXT.Process(target=_run, args=([*words[2:]], variables, theirs, start_new_session))
        self._process.start()
        for stream in theirs:
            os.close(stream.fd)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has said, which must not be much on stderr while it still writes to stdout."""
        told = []
        for stream in (self.stdout, self.stderr):
            told.append("" if stream is None else stream.read())
            if stream is not None:
                stream.close()
        self.wait(timeout)
        return told[0], told[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Stream:
    """A file descriptor, which a process takes along that is being forked."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __getstate__(self) -> dict[str, Any]:
        return {"fd": DupFd(self.fd)}


def _run(words: list[str], variables: dict[str, str], streams: Sequence[Any], session: bool) -> None:
    if session:
        os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    torch.set_num_threads(int(variables.get("OMP_NUM_THREADS", torch.get_num_threads())))
    for number, stream in enumerate(streams):
        os.dup2(stream.fd.detach(), number)
        setattr(sys, _STREAMS[number], os.fdopen(number, "w" if number else "r", buffering=1, closefd=False))
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


subprocess_ = SimpleNamespace(Popen=Popen, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
