"""Tangent kernels in the form that other libraries take; each file is imported by itself."""
