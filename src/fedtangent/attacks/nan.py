"""nan: a message without a number, which any sum would spread."""

import torch

from fedtangent.federation import Attack


def nan() -> Attack:
    """NaN in place of every number."""
    return Attack(lambda told: torch.full_like(told.own, torch.nan))
