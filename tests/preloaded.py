"""What a process imports from which others are forked: the command line, the digits, a first derivative's modules."""

import warnings

import sklearn.datasets

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch's about itself
    import torch._decomp.decompositions_for_jvp
    import torch._dynamo

    import fedtangent.cli

__all__ = ["fedtangent", "sklearn", "torch"]
