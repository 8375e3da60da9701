"""trackio: runs of the project fedtangent in Trackio, on this machine, in TRACKIO_DIR or its usual place."""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import NamedTemporaryFile

from fedtangent.extras import imported
from fedtangent.trackers._tracker import PROJECT, Begin, Run, Tracker


def trackio() -> Begin:
    """Begins with a run, or goes on: settings as config, numbers by round, files as an artefact.

    Raises:
        ValueError: Trackio is not installed.
    """
    library = imported("trackio", "trackio", "to track runs with it")

    def begin(run: Run) -> Tracker:
        id = run.id or f"{run.name} {os.urandom(4).hex()}"
        place = Path(library.TRACKIO_DIR)  # where it writes later, and without a word if it cannot
        place.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=place), redirect_stdout(io.StringIO()):  # its advertisement
            held = library.init(
                project=PROJECT,
                name=id,
                resume="never" if run.id is None else "must",
                config=dict(run.settings),
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )

        def log(k: int, numbers: Mapping[str, float]) -> None:
            held.log(dict(numbers), step=k)

        def finish(files: Sequence[Path], well: bool) -> None:
            with redirect_stdout(io.StringIO()):
                if files:
                    kept = library.Artifact(f"run-{id.rpartition(' ')[2]}", type="run")
                    for file in files:
                        kept.add_file(str(file))
                    held.log_artifact(kept)
                library.finish()

        return Tracker(id, log, finish)

    return begin
