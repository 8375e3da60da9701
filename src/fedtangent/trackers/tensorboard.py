"""tensorboard: curves in the folder `tensorboard` of the run, for TensorBoard."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtangent.errors import SettingError
from fedtangent.trackers._tracker import Begin, Run, Tracker


def tensorboard() -> Begin:
    """Begins with a run: its settings as a text, its rounds as scalars; the files of a run lie beside them.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        make = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise SettingError(
            "`tensorboard` must be installed to be written; got none. Install fedtangent[tensorboard]."
        ) from error

    def begin(run: Run) -> Tracker:
        # what an earlier, killed run logged after its checkpoint is dropped
        writer = make(log_dir=str(run.folder / "tensorboard"), purge_step=run.rounds + 1)
        if run.id is None:
            writer.add_text("settings", f"```\n{json.dumps(dict(run.settings), indent=1)}\n```")

        def log(k: int, numbers: Mapping[str, float]) -> None:
            for name, value in numbers.items():
                writer.add_scalar(name, value, k)
            writer.flush()

        def finish(files: Sequence[Path], well: bool) -> None:
            writer.close()

        return Tracker("tensorboard", log, finish)

    return begin
