"""Tangent kernels of any PyTorch model: kernels, the Jacobian as an operator, dynamics. Knows nothing of federation."""

from fedtangent.tangents import infinite, pinn
from fedtangent.tangents.by_layer import layer_kernels
from fedtangent.tangents.checkpoints import Course, checkpoint_kernels
from fedtangent.tangents.evolve import Evolution, evolve
from fedtangent.tangents.jacobian import Jacobian, jacobian
from fedtangent.tangents.kernel import kernel
from fedtangent.tangents.linearize import Gap, Linearized, linearize
from fedtangent.tangents.matrix import matrix
from fedtangent.tangents.own_kernel import own_kernel
from fedtangent.tangents.plan import Plan, plan
from fedtangent.tangents.posterior import Posterior, posterior
from fedtangent.tangents.sketch import sketch
from fedtangent.tangents.solve import Solution, solve
from fedtangent.tangents.spectrum import Spectrum, distance, drift, spectrum

__all__ = [
    "Course",
    "Evolution",
    "Gap",
    "Jacobian",
    "Linearized",
    "Plan",
    "Posterior",
    "Solution",
    "Spectrum",
    "checkpoint_kernels",
    "distance",
    "drift",
    "evolve",
    "infinite",
    "jacobian",
    "kernel",
    "layer_kernels",
    "linearize",
    "matrix",
    "own_kernel",
    "pinn",
    "plan",
    "posterior",
    "sketch",
    "solve",
    "spectrum",
]
