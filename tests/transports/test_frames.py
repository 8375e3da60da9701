"""Frames: what comes over a line is the message that is due, to the bit, or Malformed; and takes bounded memory."""

from __future__ import annotations

import contextlib
import json
import random
import tracemalloc
import zlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtangent.shard import Shard
from fedtangent.transports import _frames
from fedtangent.transports._frames import ABORT, HEAD, MESSAGE, SAID, Malformed, Place
from fedtangent.transports._lines import _Incoming
from tests.tiny_federation import assert_same

PLACE = Place(bytes(range(16)), 1, 2, 3, 1, 0)
LIMIT = 2**16
VALUES = [
    {"w": torch.arange(12, dtype=torch.float64).reshape(3, 4).t(), "n": 3},
    Shard(torch.rand(5, 2), torch.arange(5), torch.ones(5).bool()),
    (0.5, [None, "text", torch.zeros(0, 3), True]),
]
FRAME = b"".join(map(bytes, _frames.framed(VALUES, PLACE)))


again = pytest.mark.parametrize("time", [1, *(pytest.param(time, marks=pytest.mark.slow) for time in range(2, 9))])


def often(count: int) -> settings:
    return settings(max_examples=count, suppress_health_check=list(HealthCheck))


def came(data: bytes, due: Place = PLACE, limit: int = LIMIT, kind: int = MESSAGE, step: int = 50) -> _Incoming:
    """A frame after these bytes, some at a time; what is left over stays on the line."""
    frame = _Incoming(due, limit, kind)
    while data and not frame.whole:
        part = data[: min(step, len(frame.wanted))]
        frame.wanted[: len(part)] = part
        frame.took(len(part))
        data = data[len(part) :]
    return frame


def written(table: Any, numbers: bytes = b"", /, **change: int) -> bytes:
    """A frame with any table, its checksums right."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    run, *rest = PLACE
    head = {"kind": MESSAGE, "table": len(text), "numbers": len(numbers)} | change
    sums = (zlib.crc32(text), zlib.crc32(numbers))
    return HEAD.pack(b"FdTg", 1, head["kind"], run, *rest, head["table"], head["numbers"], *sums) + text + numbers


@pytest.mark.parametrize("step", [1, 7, 50, 10**6])
def test_a_message_comes_as_it_was(step: int) -> None:
    frame = came(FRAME + b"what follows", step=step)
    assert frame.whole
    found = frame.values("cpu")
    assert type(found[1]) is Shard
    assert_same([found[0]["w"], *found[1], found[2][1][2]], [VALUES[0]["w"], *VALUES[1], VALUES[2][1][2]])
    assert found[0]["n"] == 3
    assert (found[2][0], found[2][1][:2], found[2][1][3]) == (0.5, [None, "text"], True)


@again
@often(625)
@given(st.data())
def test_a_changed_frame_is_refused(time: int, data: st.DataObject) -> None:
    changed = bytearray(FRAME)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(FRAME) - 1))] ^= data.draw(st.integers(1, 255))
    changed = changed[: data.draw(st.integers(0, len(FRAME)))] if data.draw(st.booleans()) else changed
    if data.draw(st.booleans()):
        changed += data.draw(st.binary(max_size=20))
    try:
        frame = came(bytes(changed))
        accepted = frame.whole and frame.farewell is None and bool(frame.values("cpu"))
    except Malformed:
        return
    assert not accepted or bytes(changed[: len(FRAME)]) == FRAME


@often(1000)
@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    with contextlib.suppress(Malformed):
        assert not came(noise).whole


SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5)
WORDS = st.sampled_from(["t", "v", "d", "n", "u", "l", "type", "values", "trees", "tensors", "float32", "int64"])
JSON = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@again
@often(500)
@given(st.data())
def test_a_table_of_any_form_is_read_or_refused(time: int, data: st.DataObject) -> None:
    """Its checksums are right, as those of a site that is not honest would be."""
    table = json.loads(FRAME[HEAD.size : HEAD.size + HEAD.unpack(FRAME[: HEAD.size])[9]])
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(rng.randint(1, 3)):
        _replace(table, rng, data.draw(JSON))
    numbers = bytes(data.draw(st.sampled_from([0, 64, 320, 448, 640])))
    try:
        found = came(written(table, numbers)).values("cpu")
    except Malformed:
        return
    assert isinstance(found, list)
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]
    assert sum(leaf.untyped_storage().nbytes() for leaf in {id(leaf): leaf for leaf in tensors}.values()) <= LIMIT


def _replace(tree: Any, rng: random.Random, value: Any) -> None:
    """Puts a value in a place of a tree that is drawn."""
    while True:
        keys = [*tree] if isinstance(tree, dict) else range(len(tree))
        if not keys:
            return
        key = rng.choice([*keys])
        if not isinstance(tree[key], (dict, list)) or rng.random() < 0.3:
            tree[key] = value
            return
        tree = tree[key]


@pytest.mark.parametrize(
    ("table", "numbers"),
    [
        ({"values": [0], "trees": [{"t": 0}], "tensors": [["float32", [2**40], [0], False]]}, 64),
        ({"values": [0], "trees": [{"t": 0}], "tensors": [["float32", [-1], [0], False]]}, 64),
        ({"values": [0], "trees": [{"t": 0}], "tensors": [["float32", [2], [0], False]]}, 128),
        ({"values": [0], "trees": [{"t": 0}], "tensors": [["object", [2], [0], False]]}, 64),
        ({"values": [0], "trees": [{"t": 0}], "tensors": [["float32", [2, 3], [0, 0], False]]}, 64),
        ({"values": [0], "trees": [{"n": [], "type": ["os", "system"]}], "tensors": []}, 0),
        ({"values": [0], "trees": [{"n": [{"v": 1}], "type": ["fedtangent.shard", "Shard"]}], "tensors": []}, 0),
        ({"values": [1], "trees": [{"v": 1}], "tensors": []}, 0),
        (b"[" * 100_000 + b"]" * 100_000, 0),
        (b'{"values": [0], "trees": [' + b'{"l": [' * 200 + b"]}" * 200 + b'], "tensors": []}', 0),
        (b'{"values": [' + b"9" * 5000 + b'], "trees": [], "tensors": []}', 0),
        (b"\xff\xfe", 0),
    ],
)
def test_what_no_sender_writes_is_refused(table: Any, numbers: int) -> None:
    with pytest.raises(Malformed, match=r"a message that nobody sends|no JSON"):
        came(written(table, bytes(numbers))).values("cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"numbers": LIMIT + 1}, "bytes"),
        ({"numbers": 2**63}, "bytes"),
        ({"table": _frames.TABLE + 1}, "bytes"),
        ({"kind": SAID}, "kind"),
        ({"kind": 9}, "kind"),
    ],
)
def test_what_is_too_large_or_of_another_kind_is_refused_by_its_head_alone(
    change: dict[str, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_frames, "room_for", lambda head: pytest.fail("room was made for it"))
    data, frame, told = written({}, **change)[: HEAD.size], _Incoming(PLACE, LIMIT, MESSAGE), ""
    tracemalloc.start()
    try:
        frame.wanted[:] = data
        frame.took(len(data))
    except Malformed as error:
        told = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert said in told
    assert peak < 2**16


@pytest.mark.parametrize(
    "place",
    [
        PLACE._replace(run=bytes(16)),
        PLACE._replace(source=2),
        PLACE._replace(target=0),
        PLACE._replace(verb=2),
        PLACE._replace(leg=0),
        PLACE._replace(wave=1),
    ],
)
def test_a_frame_of_another_place_in_the_run_is_refused(place: Place) -> None:
    with pytest.raises(Malformed, match="another place"):
        came(FRAME, place)


def test_an_abort_may_come_at_any_time_and_steers_no_terminal() -> None:
    frame = came(_frames.said(["rome has \x1b[31mended.\n", "rome", False], PLACE._replace(verb=0, leg=0), ABORT))
    assert frame.farewell == ("rome has  [31mended. ", "rome", False)


@pytest.mark.parametrize("told", ["rome", ["rome"], ["rome", 1, True], ["rome", "", None], {"why": 1}])
def test_an_abort_that_says_something_else_is_one_all_the_same(told: object) -> None:
    frame = came(_frames.said(told, PLACE, ABORT))
    assert frame.farewell == ("another site has ended.", "", True)


def test_what_is_said_is_no_message() -> None:
    data = _frames.said({"a": [1]}, PLACE, SAID)
    assert came(data, kind=SAID).heard() == {"a": [1]}
    with pytest.raises(Malformed):
        came(data)
