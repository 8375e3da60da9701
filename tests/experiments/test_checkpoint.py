"""A state comes back from its file as it was, or not at all."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open

from fedtangent.experiments import checkpoint
from fedtangent.fleet import Central, Each
from tests import federation
from tests.federation import assert_same


class State(NamedTuple):
    """Whatever a method may keep."""

    w_k: Each[Any]
    w: Central[Any]
    more: Any


def state(fleet: Any) -> State:
    shared = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    values = [{"a": shared, "b": (torch.tensor(float(k)), [torch.tensor(k, dtype=torch.int64)])} for k in range(6)]
    return State(
        fleet.each(values), Central({"c": torch.zeros(0, 4)}), (None, 3, 0.1, True, "text", torch.tensor(True))
    )


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    fleet = federation.fleet()
    before = state(fleet)
    checkpoint.save(tmp_path, before, {"round": 3, "ledger": {"sent": [[0, 5]]}})
    found = checkpoint.load(tmp_path, fleet)
    assert found is not None
    assert found.meta == {"round": 3, "ledger": {"sent": [[0, 5]]}}
    assert type(found.state) is State
    assert_same(federation.plain(found.state)["w_k"], before.w_k.values)
    assert_same(found.state.w.value, before.w.value)
    assert found.state.more[:5] == before.more[:5]
    assert_same(found.state.more[5], before.more[5])


def test_what_nodes_share_is_stored_once(tmp_path: Path) -> None:
    fleet = federation.fleet()
    checkpoint.save(tmp_path, fleet.everywhere({"w": torch.ones(50)}), {})
    with safe_open(tmp_path / checkpoint.NAME, framework="numpy") as file:
        assert len(list(file.keys())) == 1


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, federation.fleet()) is None


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def renamed(content: bytes) -> bytes:
    return content.replace(b"test_checkpoint:State", b"test_checkpoint:torch")


@pytest.mark.parametrize(
    "spoil", [lambda c: b"", lambda c: c[:-5], lambda c: c[:40], flipped, renamed, lambda c: c.replace(b"sum", b"som")]
)
def test_a_damaged_file_is_one_sentence(spoil: Any, tmp_path: Path) -> None:
    fleet = federation.fleet()
    checkpoint.save(tmp_path, state(fleet), {"round": 1})
    path = tmp_path / checkpoint.NAME
    content = path.read_bytes()
    assert spoil(content) != content
    path.write_bytes(spoil(content))
    with pytest.raises(
        ValueError, match=r"^`out` must hold a whole checkpoint.safetensors; got a damaged one in .*\. Run"
    ):
        checkpoint.load(tmp_path, fleet)


def test_a_state_holds_tensors_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^a state must hold tensors and numbers; got object. Convert it.$"):
        checkpoint.save(tmp_path, (object(),), {})


def test_a_state_is_of_a_type_that_can_be_found_again(tmp_path: Path) -> None:
    class Inner(NamedTuple):
        a: int

    with pytest.raises(
        TypeError, match=r"^a state must be of types defined at the top of a file; got .*Inner. Move the c"
    ):
        checkpoint.save(tmp_path, Inner(3), {})


def test_the_header_is_json(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(federation.fleet()), {"round": 1})
    with safe_open(tmp_path / checkpoint.NAME, framework="numpy") as file:
        assert json.loads(file.metadata()["checkpoint"])["meta"] == {"round": 1}
