"""Data sets: functions of a data directory that return a Dataset, inputs normalised."""

from fedtangent.datasets.torch_dataset import torch_dataset

__all__ = ["torch_dataset"]
