"""Trackers: where the rounds of a run are shown beside those of other runs, one library, one file."""

from fedtangent.trackers._tracker import Run, Tracker

__all__ = ["Run", "Tracker"]
