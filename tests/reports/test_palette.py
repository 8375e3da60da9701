"""The page's colours, as they are seen with and without each kind of colour blindness, in light and in the dark.

Simulated with the matrices of Machado, Oliveira and Fernandes, A physiologically-based model for simulation of color
vision deficiency, 2009, at full severity, on linear sRGB; distances are CIE 1976's, in L*a*b*.
"""

import re
from importlib import resources
from itertools import combinations

import numpy as np
import pytest

VISIONS = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
CSS = resources.files("fedtangent.reports").joinpath("page.css").read_text(encoding="utf-8")
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.S)[:2]
)


def linear(colour: str) -> np.ndarray:
    s = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


def lab(colour: str, vision: str) -> np.ndarray:
    t = XYZ @ np.clip(VISIONS[vision] @ linear(colour), 0, 1) / XYZ.sum(1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(a: str, b: str, vision: str) -> float:
    return float(np.linalg.norm(lab(a, vision) - lab(b, vision)))


def contrast(a: str, b: str) -> float:
    """As the Web Content Accessibility Guidelines define it."""
    low, high = sorted(float(XYZ[1] @ linear(colour)) + 0.05 for colour in (a, b))
    return high / low


def test_the_distance_is_the_standard_one() -> None:
    assert lab("#ffffff", "normal") == pytest.approx([100, 0, 0], abs=0.02)
    assert lab("#ff0000", "normal") == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert contrast("#000000", "#ffffff") == pytest.approx(21, abs=1e-3)
    # a pair that the page once had
    assert distance("#0b63b0", "#5f43a8", "deuteranopia") < 5 < 20 < distance("#0b63b0", "#5f43a8", "normal")


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_curves_are_told_apart(theme: dict[str, str], vision: str) -> None:
    curves = [theme[f"curve-{i}"] for i in range(8)]
    assert min(distance(a, b, vision) for a, b in combinations(curves, 2)) > 20
    greys = [theme[f"reference-{i}"] for i in range(2)]
    assert distance(*greys, vision) > 20
    assert min(distance(a, b, vision) for a in curves for b in greys) > 15


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_the_name_of_a_curve_is_read_on_paper(theme: dict[str, str]) -> None:
    assert all(contrast(theme[f"curve-{i}"], theme["paper"]) >= 4.49 for i in range(8))
    assert all(contrast(theme[name], theme["paper"]) >= 4.5 for name in ("ink", "soft"))
