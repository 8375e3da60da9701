"""The bill of FedPart as its paper writes it: uplink only, and two thirds of the computation for a partial round.

Wang et al. Why Go Full? Elevating Federated Learning Through Partial Network Updates. NeurIPS 2024, table 1. What a run
of ours really sends and computes is on its record instead: the paper's rule supposes layers of equal cost, a backward
pass that is half saved on average, and costs three forward passes a full step. With layers really frozen ResNet-8 needs
0.576 of full updates by these passes, not 0.733.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from fedtangent.errors import SettingError


class Schedule(NamedTuple):
    """A cycle of full and partial rounds.

    Attributes:
        groups: M.
        warm_up: W, full rounds that open it.
        rounds_per_group: R.
    """

    groups: int
    warm_up: int = 5
    rounds_per_group: int = 2

    @property
    def rounds(self) -> int:
        """W + R M."""
        return self.warm_up + self.rounds_per_group * self.groups

    @property
    def uplink_share(self) -> Fraction:
        """(W + R) / (W + R M), of the bytes that full updates send to the server in as many rounds."""
        return Fraction(self.warm_up + self.rounds_per_group, self.rounds)

    @property
    def work_share(self) -> Fraction:
        """(W + 2/3 R M) / (W + R M), of the multiply-adds of full updates in as many rounds, by the paper's rule."""
        return (self.warm_up + Fraction(2, 3) * self.rounds_per_group * self.groups) / self.rounds


def sent_parameters(sizes: Sequence[int], schedule: Schedule, cycles: int = 1) -> tuple[int, int]:
    """The numbers that one client sends to the server in whole cycles: with full updates, and with partial ones.

    Args:
        sizes: Parameters of each group.
        schedule: Its groups as many as sizes.
        cycles: C.
    """
    if len(sizes) != schedule.groups:
        raise SettingError(f"`sizes` must be {schedule.groups}, one a group; got {len(sizes)}. Count the groups.")
    full = sum(sizes) * schedule.rounds
    partial = sum(sizes) * (schedule.warm_up + schedule.rounds_per_group)
    return cycles * full, cycles * partial


def gigabytes(parameters: float, clients: int) -> float:
    """The paper's unit: four bytes a number, a million of them a megabyte, 1024 of these a gigabyte."""
    return 4 * parameters * clients / 1e6 / 1024


def multiply_adds(forward: float, samples: int, schedule: Schedule, cycles: int = 1) -> tuple[float, float]:
    """Those of one client in whole cycles, with full updates and with partial ones by the paper's rule.

    Args:
        forward: Of one sample's forward pass.
        samples: That a client passes in a round, epochs times rows.
        schedule: Of a cycle.
        cycles: C.
    """
    full = 3 * forward * samples * schedule.rounds * cycles
    return full, full * float(schedule.work_share)
