"""Tangent kernels of a network: factors, kernels, dynamics. Knows nothing of federation."""

from fedtangent.tangents.jacobian import Jacobian, jacobian

__all__ = ["Jacobian", "jacobian"]
