"""mlflow: runs of an experiment in MLflow, in the folder mlruns unless MLFLOW_TRACKING_URI names a place."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedtangent.extras import imported
from fedtangent.trackers._tracker import PROJECT, Begin, Run, Tracker


def mlflow() -> Begin:
    """Begins with a run, or goes on: settings as parameters, numbers as metrics by round, files as artefacts.

    The experiment is fedtangent, or MLFLOW_EXPERIMENT_NAME where that is set.

    Raises:
        ValueError: MLflow is not installed.
    """
    library = imported("mlflow", "mlflow", "to track runs with it")

    def begin(run: Run) -> Tracker:
        place = os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").resolve().as_uri()
        if place.startswith("file:"):  # which MLflow wants to be asked for
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        client = library.MlflowClient(tracking_uri=place)
        if run.id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = client.get_experiment_by_name(name)
            number = client.create_experiment(name) if known is None else known.experiment_id
            id = str(client.create_run(number, run_name=run.name).info.run_id)
            for key, value in run.settings.items():
                client.log_param(id, key, value)
        else:
            id = str(client.get_run(run.id).info.run_id)
            client.update_run(id, status="RUNNING")

        def log(k: int, numbers: Mapping[str, float]) -> None:
            now = int(1000 * time.time())
            for name, value in numbers.items():
                client.log_metric(id, name, value, now, k)

        def finish(files: Sequence[Path], well: bool) -> None:
            for file in files:
                client.log_artifact(id, str(file))
            client.set_terminated(id, "FINISHED" if well else "FAILED")

        return Tracker(id, log, finish)

    return begin
