"""What every test may rely on: a run without --out records in a folder of the test's own, not in the checkout."""

import os

import pytest
from xdist.plugin import pytest_xdist_auto_num_workers as cores


@pytest.fixture(autouse=True)
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of a module that holds the command line run in the test's folder."""
    if hasattr(request.module, "cli"):
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture
def forked_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks that this process launches are forked from one process, and not started anew."""
    from fedtangent.experiments import launch
    from tests import forked

    monkeypatch.setattr(launch, "subprocess", forked.subprocess_)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One more than there are cores: tests of real processes wait for these, and for deadlines."""
    return None if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else cores(config) + 1
