"""Integrators, modes, and the contractions of a kernel: what it is computed with."""
