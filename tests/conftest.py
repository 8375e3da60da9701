"""What every test may rely on: a run without --out records in a folder of the test's own, not in the checkout.

No example that Hypothesis draws has a deadline: a busy machine is a normal one. PyTorch computes on one thread, if the
environment does not say otherwise: sums of several are not to the bit those of one, and threads that wait for a busy
neighbour would spin.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # which PyTorch reads as it is imported

import pytest
from hypothesis import settings

from tests.often import thin_out

settings.register_profile("any machine", parent=settings(), deadline=None)
settings.load_profile("any machine")


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


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are taken out
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Of many like cases every run takes some."""
    thin_out(items)
