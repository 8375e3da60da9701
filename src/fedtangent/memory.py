"""Whether an error says that memory is too small."""

from torch import OutOfMemoryError


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or PyTorch says that something is too large for memory, or to be addressed."""
    if isinstance(error, (MemoryError, OutOfMemoryError)):
        return True
    told = ("not enough memory", "can't allocate memory", "overflow", "array is too big", "Maximum allowed dimension")
    return isinstance(error, (RuntimeError, ValueError)) and any(words in str(error) for words in told)
