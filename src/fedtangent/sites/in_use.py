"""In use: one process a kit, which says where it records."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedtangent.experiments import lock

RECORDS = ".records"  # in a kit: where its process records
RUNS = "runs"


@contextmanager
def in_use(kit: str | Path, records: str | Path | None = None) -> Iterator[None]:
    """Inside, no other process of this machine uses the kit; one that cannot be written is kept by nobody.

    Args:
        kit: Its folder.
        records: A run's folder, or one with the folders of runs; none is where the kit keeps them.

    Raises:
        ValueError: Another process uses it.
    """
    folder = Path(kit)
    if not (folder / "kit.json").is_file() or not os.access(folder, os.W_OK):
        yield
        return
    with lock.held(folder, _refusal):
        with suppress(OSError):
            (folder / RECORDS).write_bytes(os.fsencode(Path(records or folder / RUNS).absolute()))
        yield


def _refusal(folder: Path, owner: str) -> str:
    return (
        f"`kit` must not be in use; got {folder}, with which process {owner} runs. Wait until it ends, or end it: a "
        "kit is for one process."
    )
