"""A state comes back from its file as it was, or not at all; its types come from the method."""

import json
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open

from fedtangent.experiments import apart, checkpoint
from fedtangent.federation import Central, Each
from tests import tiny_federation as federation
from tests.tiny_federation import assert_same


class State(NamedTuple):
    """Whatever a method may keep."""

    w_k: Each[Any]
    w: Central[Any]
    more: Any


@dataclass(frozen=True)
class Frozen:
    """A dataclass that checks what it is given, and may be made once only."""

    w: Central[Any]
    rounds: int = 0

    def __post_init__(self) -> None:
        assert self.rounds < 1


def factory(task: Any, *, lr: float = 0.1) -> None:
    """Stands for a method of this file."""


def state(fleet: Any) -> State:
    shared = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    values = [{"a": shared, "b": (torch.tensor(float(k)), [torch.tensor(k, dtype=torch.int64)])} for k in range(6)]
    return State(
        fleet.each(values), Central({"c": torch.zeros(0, 4)}), (None, 3, 0.1, True, "text", torch.tensor(True))
    )


def again(folder: Path, before: Any, meta: dict[str, Any], *functions: Any) -> Any:
    fleet = federation.fleet()
    types = checkpoint.known_types(before, functions)
    checkpoint.check(before, types)
    checkpoint.save(folder, before, meta)
    return checkpoint.load(folder, fleet, before, types)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    before = state(federation.fleet())
    found = again(tmp_path, before, {"round": 3, "ledger": {"sent": [[0, 5]]}})
    assert found.meta == {"round": 3, "ledger": {"sent": [[0, 5]]}}
    assert type(found.state) is State
    assert_same(federation.plain(found.state)["w_k"], before.w_k.values)
    assert_same(found.state.w.value, before.w.value)
    assert found.state.more[:5] == before.more[:5]
    assert_same(found.state.more[5], before.more[5])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.linalg.qr(torch.randn(4, 3))[0],
        torch.randn(3, dtype=torch.complex128),
        torch.randn(3, 2, dtype=torch.complex64).T.conj(),
        torch.randn(3).to(torch.bfloat16),
        torch.tensor(2**62),
        torch.ones(3, 1).expand(3, 4),
    ],
)
def test_a_tensor_keeps_its_type_and_the_order_of_its_memory(tensor: torch.Tensor, tmp_path: Path) -> None:
    found = again(tmp_path, Frozen(Central(tensor)), {}).state.w.value
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found, tensor)
    if 0 not in tensor.stride():
        assert found.stride() == tensor.stride()


def test_what_nodes_share_is_stored_once_and_shared_again(tmp_path: Path) -> None:
    before = State(federation.fleet().everywhere({"w": torch.ones(5, 10).T}), Central(0), None)
    values = again(tmp_path, before, {}).state.w_k.values
    with safe_open(tmp_path / checkpoint.NAME, framework="numpy") as file:
        assert len(list(file.keys())) == 1
    assert all(value["w"] is values[0]["w"] for value in values)


def test_views_of_one_memory_come_back_each(tmp_path: Path) -> None:
    rows = torch.arange(12.0).reshape(6, 2)
    before = State(federation.fleet().each(list(rows.unbind())), Central(rows), None)
    found = again(tmp_path, before, {}).state
    assert_same(found.w_k.values, list(rows.unbind()))
    assert torch.equal(found.w.value, rows)


def test_some_nodes_alone_may_hold_a_value(tmp_path: Path) -> None:
    fleet = federation.fleet()
    some = replace(fleet, nodes=(1, 4)).each([torch.zeros(1), torch.ones(1)])
    found = again(tmp_path, State(some, Central(0), None), {}).state
    assert found.w_k.nodes == (1, 4)
    assert_same(found.w_k.values, some.values)


def test_dicts_keep_their_keys_kinds_and_order(tmp_path: Path) -> None:
    more = {3: "int", "b": 1, None: 2, 0.5: OrderedDict(z=1, a=2)}
    found = again(tmp_path, State(federation.fleet().everywhere(0), Central(0), more), {}).state.more
    assert list(found.items()) == list(more.items())
    assert type(found[0.5]) is OrderedDict


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, federation.fleet(), None, []) is None


@pytest.mark.parametrize(
    "spoil", [lambda c: b"", lambda c: c[:-5], lambda c: c[:40], lambda c: c.replace(b"text", b"tent")]
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
        checkpoint.load(tmp_path, fleet, state(fleet), [])


def test_a_state_of_another_method_is_one_sentence(tmp_path: Path) -> None:
    fleet = federation.fleet()
    checkpoint.save(tmp_path, state(fleet), {"round": 1})
    message = (
        r"^`out` must hold a checkpoint.safetensors of its own run; got another state in .* \(KeyError: 'State\(w_k, "
    )
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path, fleet, Frozen(Central(0)), [Frozen])
    message = r"got another state in .* \(TypeError: it is of type State\). Run anew with another --out.$"
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path, fleet, Frozen(Central(0)), [Frozen, State])
    with pytest.raises(ValueError, match=r"got another state in .* \(ValueError: it has other nodes\)"):
        checkpoint.load(tmp_path, federation.fleet(nodes=3), state(fleet), [])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"^a state must hold tensors and numbers; got object. Convert it.$"),
        (Counter(a=1), r"^a state must hold tensors and numbers; got Counter. Convert it.$"),
        ({(1, 2): 3}, r"^a state must have texts and numbers as keys; got tuple. Use a text in its place.$"),
        (
            torch.eye(3).to_sparse(),
            r"^a state must hold dense tensors; got a torch.sparse_coo one. Call to_dense\(\).$",
        ),
    ],
)
def test_a_state_holds_tensors_and_numbers(value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=message):
        checkpoint.save(tmp_path, (value,), {})


def local(fleet: Any) -> Any:
    class Inner(NamedTuple):
        w: Any

    return Inner(Central((Frozen(Central(2)), fleet.everywhere(Inner(3)))))


def test_a_type_may_be_of_a_function_where_the_first_state_holds_it(tmp_path: Path) -> None:
    before = local(federation.fleet())
    found = again(tmp_path, before, {}).state
    assert type(found) is type(before)
    frozen, inner_k = found.w.value
    assert (type(frozen), frozen.w.value) == (Frozen, 2)
    assert [(type(inner), inner.w) for inner in inner_k.values] == [(type(before), 3)] * 6


def test_a_type_is_found_in_the_file_of_the_method_or_of_what_it_wraps() -> None:
    assert checkpoint.known_types(None, []) == []
    for function in (factory, partial(partial(factory, lr=1.0), lr=2.0)):
        assert {State, Frozen} <= set(checkpoint.known_types(None, [function]))


def test_a_type_that_nobody_finds_again_is_refused_before_it_is_saved() -> None:
    message = (
        r"^a state must be of types that the method's first state or its file holds; got local.<locals>.Inner. "
        "Define it at the top of the method's file.$"
    )
    with pytest.raises(TypeError, match=message):
        checkpoint.check(local(federation.fleet()), [State, Frozen])


def test_types_that_look_alike_are_told_apart_by_their_place(tmp_path: Path) -> None:
    fleet = federation.fleet()
    one, other = (type(local(fleet)) for _ in range(2))
    assert one is not other
    before = one(Central([other(1), one(2)]))
    found = again(tmp_path, before, {}).state
    assert [type(found), *map(type, found.w.value)] == [one, other, one]


def test_no_name_in_a_file_is_looked_up(tmp_path: Path) -> None:
    """A type that Python knows, but that the method does not bring."""
    fleet = federation.fleet()
    checkpoint.save(tmp_path, federation.shards()[0], {})
    with pytest.raises(ValueError, match=r"got another state in .* \(KeyError: 'Shard\(x, y, real\)'\)"):
        checkpoint.load(tmp_path, fleet, state(fleet), [])


def test_the_header_is_json(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(federation.fleet()), {"round": 1})
    with safe_open(tmp_path / checkpoint.NAME, framework="numpy") as file:
        assert json.loads(json.loads(file.metadata()["fedtangent"])["header"])["meta"] == {"round": 1}


def test_a_leaders_checkpoint_is_never_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while it is written leaves the one before, from which all go on; it is not the first round again."""
    fleet = federation.fleet()
    built: Any = SimpleNamespace(leads=True, fingerprint="x", nodes=fleet.nodes)
    apart.kept(built, fleet, tmp_path, state(fleet), [{"round": 1}], ["a"])
    assert apart.rounds_over(tmp_path) == 1

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        apart.kept(built, fleet, tmp_path, state(fleet), [{"round": 1}, {"round": 2}], ["a", "b"])
    assert apart.rounds_over(tmp_path) == 1
