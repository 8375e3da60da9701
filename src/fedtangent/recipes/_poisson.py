"""The Poisson problem in one dimension, and its training, as in Wang, Yu and Perdikaris (2022).

u_xx = f on [0, 1] and u = 0 at both ends, with the solution sin(frequency pi x), by a network with one hidden layer

    u(x) = scale v . tanh(w z + b) + c,     z = (x - shift) / spread

under full-batch gradient descent. The derivatives are written out, in numpy: ten times faster than autograd's.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from fedtangent.errors import SettingError
from fedtangent.tangents import pinn

LR, POINTS = 1e-5, 100
Conventions = Literal["code", "text"]
Array = np.ndarray
Weighted = tuple[float, float]


class Network(nn.Module):
    """u (n,) of x (n, 1), for the kernels; theta are its parameters w, b, v (width,) and c (1,), in this order."""

    def __init__(self, theta: Array, scale: float, shift: float, spread: float) -> None:
        super().__init__()
        self.w, self.b, self.v, self.c = (nn.Parameter(torch.tensor(part)) for part in split(theta))
        self.scale, self.shift, self.spread = scale, shift, spread

    def forward(self, x: Tensor) -> Tensor:
        """u at every x."""
        h: Tensor = torch.tanh((x - self.shift) / self.spread * self.w + self.b)
        return self.scale * (h @ self.v) + self.c


class Poisson:
    """The problem, and the conventions of network and losses.

    Args:
        width: Of the hidden layer.
        conventions: `code`, as the authors' program: inputs standardised by the mean and deviation of the collocation
            points, v from N(0, 1 / width), the losses means of squares. `text`, as their article: inputs as they are,
            v from N(0, 1) with scale 1 / sqrt(width), the losses half of sums. In both the others are from N(0, 1).
        frequency: Of the solution.
    """

    def __init__(self, width: int, conventions: Conventions = "code", frequency: int = 1) -> None:
        if width < 1:
            raise SettingError(f"`width` must be positive; got {width}. Give the number of hidden units.")
        self.width, self.frequency, self.code = width, frequency, conventions == "code"
        self.x = np.linspace(0, 1, POINTS)
        self.shift, self.spread = (0.5, float(self.x.std())) if self.code else (0.0, 1.0)
        self.scale = 1.0 if self.code else 1 / math.sqrt(width)
        self.z, self.z_ends = ((x - self.shift) / self.spread for x in (self.x, np.array([0.0, 1.0])))
        self.f = -((frequency * math.pi) ** 2) * np.sin(frequency * math.pi * self.x)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat_interleave(POINTS // 2)
        self.terms = {
            "u": (pinn.identity, ends[:, None]),
            "r": (pinn.laplacian, torch.from_numpy(self.x)[:, None]),
        }

    def start(self, seed: int) -> Array:
        """Random theta (3 width + 1,), from the same draws in both conventions."""
        theta = np.random.default_rng([seed, self.width]).standard_normal(3 * self.width + 1)
        if self.code:
            split(theta)[2][:] /= math.sqrt(self.width)
        return theta

    def kernel(self, theta: Array) -> pinn.Blocks:
        """K of u at the ends, each POINTS / 2 times, and of u_xx inside."""
        return pinn.kernel(self.network(theta), self.terms)

    def network(self, theta: Array) -> Network:
        """The network with these parameters."""
        return Network(theta, self.scale, self.shift, self.spread)

    def values(self, theta: Array, x: Array) -> Array:
        """u at x (n,)."""
        w, b, v, c = split(theta)
        return np.asarray(self.scale * (np.tanh(np.outer((x - self.shift) / self.spread, w) + b) @ v) + c)

    def error(self, theta: Array) -> float:
        """|u - solution| / |solution| on 1,000 points."""
        x = np.linspace(0, 1, 1000)
        solution = np.sin(self.frequency * math.pi * x)
        return float(np.linalg.norm(self.values(theta, x) - solution) / np.linalg.norm(solution))

    def losses(self, theta: Array) -> Weighted:
        """Of the boundary and of the residual inside."""
        u, r, *_ = self._forward(theta)
        share = 1 / POINTS if self.code else 0.5
        return share * POINTS / 2 * float(u @ u), share * float(r @ r)

    def descended(self, theta: Array, steps: int, weights: Weighted = (1.0, 1.0)) -> Array:
        """Theta after that many gradient steps on weights[0] loss_u + weights[1] loss_r."""
        for _ in range(steps):
            theta = theta - LR * self.gradient(theta, weights)
        return theta

    def gradient(self, theta: Array, weights: Weighted) -> Array:
        """Of that loss by theta."""
        w, _, v, _ = split(theta)
        u, r, h, q, slope = self._forward(theta)
        share = 2 / POINTS if self.code else 1.0
        g_u, g_r = weights[0] * share * POINTS / 2 * u, weights[1] * share * r
        third = slope * -6
        third += 4
        third *= slope  # tanh''' = tanh' (4 - 6 tanh')
        bend = self.scale * w**2 / self.spread**2
        by_second = -2 * (g_r @ q)
        by_z, by_b = bend * (np.stack([self.z * g_r, g_r]) @ third)
        ends_z, ends_b = self.scale * (np.stack([self.z_ends * g_u, g_u]) @ (1 - h**2))
        by_w = v * (by_z + ends_z) + 2 * self.scale / self.spread**2 * v * w * by_second
        by_v = bend * by_second + self.scale * (g_u @ h)
        return np.concatenate([by_w, v * (by_b + ends_b), by_v, [g_u.sum()]])

    def _forward(self, theta: Array) -> tuple[Array, Array, Array, Array, Array]:
        """u at the ends, u_xx - f inside; tanh at the ends; inside tanh tanh' = -tanh'' / 2, and tanh'."""
        w, b, v, c = split(theta)
        h = np.tanh(np.outer(self.z_ends, w) + b)
        q = np.outer(self.z, w)
        q += b
        np.tanh(q, out=q)
        slope = q * q
        np.subtract(1, slope, out=slope)
        q *= slope
        bend = self.scale * w**2 / self.spread**2
        return self.scale * (h @ v) + c, -2 * (q @ (bend * v)) - self.f, h, q, slope


def split(theta: Array) -> list[Array]:
    """Views w, b, v (width,) and c (1,)."""
    width = len(theta) // 3
    return np.split(theta, [width, 2 * width, 3 * width])
