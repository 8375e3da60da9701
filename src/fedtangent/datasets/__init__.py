"""Data sets: functions of a data directory that return a Dataset, inputs normalised."""
