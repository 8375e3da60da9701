"""Federated learning in the tangent space of any PyTorch model, with or without a server."""

__version__ = "0.1.0"
