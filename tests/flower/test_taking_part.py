"""What a site answers without Flower: who it is, what it makes of an order, and what it does not do for anybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedtangent.flower import taking_part
from fedtangent.sites.in_use import in_use
from tests.sites import processes

NAMES = ("berlin", "paris", "rome")


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Any]:
    """The configuration of berlin's SuperNode."""
    processes.kits(tmp_path, False, NAMES)
    processes.files(tmp_path)
    return {"kit": str(tmp_path / "kits" / "berlin"), "dataset": "npz", "data-dir": str(tmp_path / "berlin.npz")}


def test_a_site_says_who_it_is(node: dict[str, Any]) -> None:
    assert taking_part.known(node) == {
        "federation": "hearts",
        "site": "berlin",
        "sites": ["berlin", "paris", "rome"],
        "served": False,
    }


def test_a_site_without_rows_says_so(node: dict[str, Any]) -> None:
    with pytest.raises((ValueError, OSError), match=r"nowhere\.npz"):
        taking_part.known({**node, "data-dir": "nowhere.npz"})


def test_a_site_whose_kit_is_in_use_says_so(node: dict[str, Any]) -> None:
    order = taking_part.order("rome", {"method": "dfedavg"}, {})
    with in_use(node["kit"]):
        with pytest.raises(ValueError, match="`kit` must not be in use; got "):
            taking_part.known(node)
        with pytest.raises(ValueError, match="`kit` must not be in use; got "):
            taking_part.taken(node, order)


def test_a_servers_kit_is_no_sites(tmp_path: Path, node: dict[str, Any]) -> None:
    (tmp_path / "served").mkdir()
    kit = processes.kits(tmp_path / "served", True, NAMES) / "server"
    with pytest.raises(ValueError, match="`kit` must be a site's at a SuperNode; got the server's"):
        taking_part.known({**node, "kit": str(kit)})


@pytest.mark.parametrize(
    ("settings", "how", "told"),
    [
        ({"method": "./mine.py"}, {}, "`method` must be one of"),
        (
            {"method": "dfedavg", "data_dir": "/etc"},
            {},
            "`plan` must hold settings that a federation has; got data_dir",
        ),
        ({"method": "dfedavg", "loss": "x.y"}, {}, "`loss` must be one of"),
        ({"method": "dfedavg"}, {"out": "/tmp/x"}, "`out` must not be told from afar"),
        (None, {}, "`plan` must hold settings that a federation has; got NoneType"),
    ],
)
def test_a_leader_does_nothing_that_names_a_file(settings: Any, how: Any, told: str, node: dict[str, Any]) -> None:
    order = json.dumps({"leader": "berlin", "settings": settings, "how": how})
    with pytest.raises(ValueError) as error:
        taking_part.taken(node, order)
    assert told in str(error.value)


@pytest.mark.parametrize("order", ["", "[]", "{}", "1", '{"leader": "berlin"}', '{"leader":1,"settings":{},"how":3}'])
def test_what_is_no_order(order: str, node: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`order` must be one of this version; got another"):
        taking_part.taken(node, order)


def test_a_site_waits_no_longer_than_it_says(node: dict[str, Any]) -> None:
    order = taking_part.order("rome", {"method": "dfedavg"}, {})
    with pytest.raises(ValueError, match=r"`(paris|rome)` must call within 0\.2 seconds; got no call"):
        taking_part.taken({**node, "wait": 0.2}, order)


def test_a_leader_has_its_own_record_and_device_and_the_plan_from_afar(
    node: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(taking_part.session, "lead", lambda *given, **how: asked.append((given, how)))
    order = taking_part.order("berlin", {"method": "dfedavg", "rounds": 7}, {"resume": True, "wait": 3.0})
    with pytest.raises(ValueError, match="`run` must come to its end; got one that ended before"):
        taking_part.taken({**node, "out": "mine", "wait": 9, "device": "cpu"}, order)
    (((kit, plan, rows), how),) = asked
    assert (kit, plan.method, plan.rounds, plan.device) == (node["kit"], "dfedavg", 7, "cpu")
    assert len(rows.x_train) and how["out"] == "mine" and how["resume"] and how["wait"] == 9.0
    assert how["quorum"] == 1.0 and how["track"] == ()
