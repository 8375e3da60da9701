"""Tangent kernels of a network: factors, kernels, dynamics. Knows nothing of federation."""
