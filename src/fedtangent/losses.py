"""The public path of `fedtangent.training.losses`."""

from fedtangent.training.losses import (
    NAMES,
    Loss,
    check_shapes,
    cross_entropy,
    curvature_root,
    custom,
    mean,
    scaled,
    squared,
    weighted,
)

__all__ = [
    "NAMES",
    "Loss",
    "check_shapes",
    "cross_entropy",
    "curvature_root",
    "custom",
    "mean",
    "scaled",
    "squared",
    "weighted",
]
