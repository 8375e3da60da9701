"""Scalars: the rounds of a run as TensorBoard's curves, when asked for."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedtangent.errors import SettingError


class Scalars:
    """Writes the numbers of every round into the folder `tensorboard` of a run."""

    def __init__(self, out: str | Path | None, wanted: bool) -> None:
        """Finds TensorBoard where it is wanted.

        Raises:
            ValueError: There is no folder to write to, or TensorBoard is not installed.
        """
        self._writer: Any = None
        self._folder: Path | None = None
        if not wanted:
            return
        if out is None:
            raise SettingError("`tensorboard` must have a folder to write to; got no `out`. Give --out.")
        try:
            self._make = importlib.import_module("torch.utils.tensorboard").SummaryWriter
        except ImportError as error:
            raise SettingError(
                "`tensorboard` must be installed to be written; got none. Install fedtangent[tensorboard]."
            ) from error
        self._folder = Path(out) / "tensorboard"

    def log(self, entry: Mapping[str, Any]) -> None:
        """Adds a round's numbers; what an earlier, killed run logged from this round on is dropped."""
        if self._folder is None:
            return
        if self._writer is None:
            self._writer = self._make(log_dir=str(self._folder), purge_step=entry["round"])
        for name, value in entry.items():
            if name != "round" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, entry["round"])
        self._writer.flush()
