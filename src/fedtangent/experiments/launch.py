"""Launch: the ranks of a run on this machine, as processes that end together."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from fedtangent.errors import SettingError

LAUNCHED = "FEDTANGENT_LAUNCHED"
FAILED, WRONG = 1, 2
_A_CORE = 16  # ranks, at most
_GRACE = 3.0  # seconds in which ranks may end by themselves once one of them has


def launched() -> bool:
    """Whether this process is a rank that `launch` has started."""
    return LAUNCHED in os.environ


def launch(words: Sequence[str], count: int, nodes: int | None = None) -> int:
    """The exit code of a command that is run on so many ranks, at most as many as nodes, and 16 for a core.

    0 where all have ended well; 2 after the sentence that rank 0 prints about what is wrong; 1 where a rank was killed,
    of which one sentence tells, or failed, which it tells itself. 130 after Ctrl-C.

    Raises:
        ValueError: Fewer than one, or too many; or torchrun has started this process.
    """
    if count < 1:
        raise SettingError(f"`ranks` must be at least 1; got {count}. Leave it out for one process.")
    cores = os.cpu_count() or 1
    if nodes is not None and count > nodes:
        raise SettingError(f"`ranks` must be at most the nodes, {nodes}; got {count}. Start fewer.")
    if count > _A_CORE * cores:
        raise SettingError(f"`ranks` must be at most {_A_CORE * cores} on {cores} cores; got {count}. Start fewer.")
    if "RANK" in os.environ:
        raise SettingError("`ranks` must be left out under torchrun, which starts them; got both. Drop it.")
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(count), LAUNCHED: "1"}
    # A rank that is lost is told of in one sentence, to which torch would add a page of its own frames.
    unless = {"OMP_NUM_THREADS": str(max(1, cores // count)), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "fedtangent", *words],
            env={**unless, **os.environ, **address, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,  # whose end tells a rank that this process is gone
            stdout=subprocess.DEVNULL if rank else None,
            start_new_session=True,
        )
        for rank in range(count)
    ]
    stopped = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _awaited(processes)
    except KeyboardInterrupt:
        processes[0].send_signal(signal.SIGINT)  # which says how to go on
        _wait(processes[:1], 60)
        return 130
    finally:
        signal.signal(signal.SIGTERM, stopped)
        _end(processes)


def watch() -> None:
    """Ends this rank as soon as the process that launched it is gone."""

    def until_closed() -> None:
        while os.read(0, 1):  # not through sys.stdin, whose lock the end of the process wants
            pass
        os._exit(FAILED)

    if launched():
        threading.Thread(target=until_closed, daemon=True).start()


def _awaited(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in processes]
        if all(code == 0 for code in codes):
            return 0
        if any(codes):
            break
        time.sleep(0.05)
    killed = [(rank, -code) for rank, code in enumerate(codes) if code is not None and code < 0]
    _wait(processes, _GRACE)
    if killed and processes[0].poll() != WRONG:
        rank, number = killed[0]
        print(
            f"fedtangent: rank {rank} was killed by signal {number}, and all ranks have ended. Go on with --resume, "
            "where there is an --out.",
            file=sys.stderr,
        )
        return FAILED
    return next(code for code in (processes[0].poll(), *codes, FAILED) if code)


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(process.poll() is None for process in processes):
        time.sleep(0.05)


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends all that still run, and leaves none behind."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            if process.poll() is None:
                process.send_signal(stop)
        _wait(processes, _GRACE)
    for process in processes:
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
