"""flipped_weights: weights and gradients against themselves, all that a plausibility check would see left honest."""

from fedtangent.federation import Attack

SHAPES = {(100, 784), (100, 64), (100,), (10, 100), (10,)}  # of 784-100-10 and 64-100-10


def flipped_weights(*, factor: float = 1.0) -> Attack:
    """-factor times every tensor that has the shape of a parameter.

    Args:
        factor: Of every number.
    """
    return Attack(lambda told: -factor * told.own if tuple(told.own.shape) in SHAPES else told.own)
