"""The public path of `fedtangent.training.batch_norm`: the layer that is a function of real rows only."""

from fedtangent.training.batch_norm import BatchNorm

__all__ = ["BatchNorm"]
