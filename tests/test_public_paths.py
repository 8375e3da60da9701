"""What files outside the package import by a short path is the same thing as what the package uses."""

import importlib

import pytest


@pytest.mark.parametrize("name", ["task", "losses", "batch_norm"])
def test_short_path_names_the_same_objects(name: str) -> None:
    short = importlib.import_module(f"fedtangent.{name}")
    home = importlib.import_module(f"fedtangent.training.{name}")
    for public in short.__all__:
        assert getattr(short, public) is getattr(home, public)


def test_short_paths_hold_what_own_files_need() -> None:
    from fedtangent import batch_norm, losses, task

    assert {"Augmentation", "Task", "Weights", "training"} <= set(task.__all__)
    assert {"Loss", "cross_entropy", "custom", "squared"} <= set(losses.__all__)
    assert "BatchNorm" in batch_norm.__all__
