"""The published columns of FedPart's table 1, out of the arithmetic alone."""

from fractions import Fraction

import pytest

from fedtangent.reports.partial_bill import Schedule, gigabytes, multiply_adds, sent_parameters

RESNET8 = [9_536, 36_992, 36_992, 73_984, 147_712, 8_448, 295_424, 590_336, 33_280]
CLASSIFIER = {10: 2_570, 100: 25_700, 200: 51_400}
CLIENTS, SAMPLES = 40, 8 * 500
# Forward passes at 32 x 32: convolutions and classifier, and four for every number that is normalised.
CONVOLUTIONS = 2_408_448 + 4 * 2_359_296 + 2 * 1_179_648 + 2 * 131_072
NORMALISED = 4 * (64 * 16 * 16 + 2 * 64 * 8 * 8 + 3 * 128 * 4 * 4 + 3 * 256 * 2 * 2)
FORWARD = {classes: CONVOLUTIONS + 256 * classes + NORMALISED for classes in (10, 100)}
FORWARD[200] = 4 * (CONVOLUTIONS + NORMALISED) + 256 * 200  # 64 x 64
PAPER = Schedule(groups=10)

# classes, cycles: GB full and partial, 10^12 multiply-adds full and partial, as printed
TABLE = {
    (10, 1): (4.83, 1.35, 4.38, 3.21),
    (10, 2): (9.65, 2.70, 8.76, 6.43),
    (10, 3): (14.5, 4.05, 13.2, 9.64),
    (10, 4): (19.3, 5.40, 17.5, 12.9),
    (100, 1): (4.92, 1.38, 4.39, 3.22),
    (100, 2): (9.83, 2.75, 8.78, 6.44),  # 9.65 in print, which its own row contradicts: 2.75 / 0.28
    (100, 3): (14.8, 4.13, 13.2, 9.66),
    (100, 4): (19.7, 5.51, 17.6, 12.9),
    (100, 5): (24.6, 6.88, 21.9, 16.1),
    (200, 1): (5.02, 1.40, 17.5, 12.9),
    (200, 2): (10.0, 2.81, 35.1, 25.7),
    (200, 3): (15.1, 4.21, 52.6, 38.6),
    (200, 4): (20.1, 5.62, 70.1, 51.4),
    (200, 5): (25.1, 7.02, 87.7, 64.3),
}


@pytest.mark.parametrize(("classes", "cycles"), TABLE)
def test_the_published_rows(classes: int, cycles: int) -> None:
    sent = sent_parameters([*RESNET8, CLASSIFIER[classes]], PAPER, cycles)
    worked = multiply_adds(FORWARD[classes], SAMPLES, PAPER, cycles)
    found = [*(gigabytes(count, CLIENTS) for count in sent), *(count / 1e12 for count in worked)]
    assert found == pytest.approx(TABLE[classes, cycles], rel=4.3e-3)  # print rounds the last digit, 13.14 to 13.2


def test_the_poster_s_two_numbers() -> None:
    """-72% of the uplink and -27% of the computation, a cycle as well as any number of them."""
    assert (PAPER.rounds, PAPER.uplink_share) == (25, Fraction(28, 100))
    assert round(100 * (1 - float(PAPER.work_share))) == 27
    for cycles in (1, 3):
        full, partial = sent_parameters([5, 7, 1], Schedule(3), cycles)
        assert Fraction(partial, full) == Schedule(3).uplink_share == Fraction(7, 11)
        full_work, partial_work = multiply_adds(7, 3, Schedule(3), cycles)
        assert partial_work / full_work == pytest.approx(float(Schedule(3).work_share), rel=1e-15)


@pytest.mark.parametrize(
    ("groups", "uplink"), [(10, Fraction(7, 25)), (21, Fraction(7, 47)), (8, Fraction(7, 21)), (1, Fraction(1))]
)
def test_other_models(groups: int, uplink: Fraction) -> None:
    assert Schedule(groups).uplink_share == uplink


def test_a_cycle_by_hand() -> None:
    """Three groups of 5, 7 and 1: one full round of 13, then each group for two rounds."""
    schedule = Schedule(3, warm_up=1, rounds_per_group=2)
    assert sent_parameters([5, 7, 1], schedule) == (7 * 13, 13 + 2 * 13)
    assert multiply_adds(10, 4, schedule) == (7 * 120, pytest.approx((1 + 4) * 120))


def test_sizes_are_one_a_group() -> None:
    with pytest.raises(ValueError, match=r"^`sizes` must be 10, one a group; got 2. Count the groups.$"):
        sent_parameters([1, 2], PAPER)
