"""What a process knows of rows that are elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedtangent.experiments.experiment import experiment
from fedtangent.experiments.setup import setup
from fedtangent.experiments.share import completed, joined, profile
from fedtangent.shard import Dataset, Partition


@pytest.mark.parametrize("ids", [2, 9])
def test_a_server_without_rows_can_try_a_model_of_token_ids(ids: int) -> None:
    x, y = torch.randint(ids, (5, 7), generator=torch.Generator().manual_seed(1)).float(), torch.arange(5) % 3
    told = profile(Dataset("texts", x, y, x, y, 3), b"key")
    rows = completed("texts", None, joined({"berlin": told}))
    assert rows.x_train.shape[1:] == (7,) and rows.x_train.dtype == torch.float32
    tiny = {"ids": ids, "width": 8, "heads": 2, "layers": 1, "feedforward": 8}
    asked = experiment(
        "fedavg", model="transformer", **tiny, dataset=rows, partition=Partition([np.arange(len(rows.y_train))])
    )
    assert setup(asked).task.size > 0
