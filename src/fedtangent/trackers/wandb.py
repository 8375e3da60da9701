"""wandb: runs of the project fedtangent in Weights & Biases, kept in the run's folder unless WANDB_MODE is online."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtangent.extras import imported
from fedtangent.trackers._tracker import PROJECT, Begin, Run, Tracker


def wandb() -> Begin:
    """Begins with a run, or goes on: settings as config, numbers by round, files as an artefact.

    Nothing is sent unless WANDB_MODE is online; `wandb sync` sends later what lies in the run's folder. The project is
    WANDB_PROJECT where that is set. Neither code, git, nor anything of the machine is kept.

    Raises:
        ValueError: W&B is not installed.
    """
    library = imported("wandb", "wandb", "to track runs with it")

    def begin(run: Run) -> Tracker:
        id = run.id or os.urandom(6).hex()
        settings = {"silent": True, "console": "off", "disable_git": True, "disable_code": True}
        settings |= {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True}
        held = library.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=id,
            resume="allow",
            dir=str(run.folder),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=library.Settings(**settings),
        )
        held.config.update(dict(run.settings), allow_val_change=True)

        def log(k: int, numbers: Mapping[str, float]) -> None:
            held.log(dict(numbers), step=k)

        def finish(files: Sequence[Path], well: bool) -> None:
            if files:
                kept = library.Artifact(f"run-{id}", type="run")
                for file in files:
                    kept.add_file(str(file))
                held.log_artifact(kept)
            held.finish(exit_code=0 if well else 1)

        return Tracker(id, log, finish)

    return begin
