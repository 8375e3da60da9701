"""Tangent kernels of any PyTorch model: kernels, the Jacobian as an operator, dynamics. Knows nothing of federation."""

from fedtangent.tangents.jacobian import Jacobian, jacobian
from fedtangent.tangents.kernel import kernel
from fedtangent.tangents.plan import Plan, plan

__all__ = ["Jacobian", "Plan", "jacobian", "kernel", "plan"]
