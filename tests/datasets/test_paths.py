"""What a data set is given as its path, from Python, in place of one."""

import inspect
from typing import Any

import numpy as np
import pytest

from fedtangent import catalog

NEEDED = {"label": "y", "window": 2, "text": "t", "tokenizer": "tokenizer.json"}
READERS = [name for name in catalog.names("datasets") if name not in ("digits", "huggingface", "torch_dataset")]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("given", [3, b"rows.csv", np.zeros(3), {}])
def test_what_is_no_path_is_told_in_a_sentence(name: str, given: Any) -> None:
    reader = catalog.load("datasets", name)
    options = {key: NEEDED[key] for key in inspect.signature(reader).parameters if key in NEEDED}
    kind = type(given).__name__
    with pytest.raises(TypeError, match=rf"^`(path|data_dir)` must be .*; got {kind}\. [A-Z].*\.$"):
        reader(given, **options)
