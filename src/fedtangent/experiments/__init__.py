"""From a description to a record: experiment, setup, run, evaluation, folder, checkpoint."""
