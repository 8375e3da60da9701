"""Cache: what a receiver holds already of a sender is not sent to it again; content tells, whatever tensor has it."""

import hashlib
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.federation.digests import digests
from fedtangent.federation.ledger import SERVER, Link


class Cache:
    """What the receiver of every link has got of its sender in the last round in which something came, and in this one.

    Between neighbours, who may be others in every round, of this round alone. So a node keeps at most what two rounds
    have brought it. A tensor costs one digest of its numbers, some milliseconds for ten megabytes.
    """

    def __init__(self) -> None:
        self._held: dict[Link, dict[bytes, int]] = {}  # the round in which each content was last of use
        self._last: dict[Link, int] = {}
        self._round = -1
        self._digests: dict[int, tuple[weakref.ref[Tensor], bytes]] = {}  # by the tensor's id

    def fresh(self, link: Link, value: Any, round: int) -> list[Any]:
        """The tensors and numbers of a message that its receiver has not; they are its own from now on."""
        if round != self._round:
            self._round = round
            for old in [link for link in self._held if SERVER not in link]:
                del self._held[old], self._last[old]
        held, last = self._held.setdefault(link, {}), self._last.get(link, round)
        if last != round:
            held = self._held[link] = {digest: used for digest, used in held.items() if used == last}
        self._last[link] = round
        found = []
        for leaf in trees.sent(value):
            digest = self._digest(leaf) if isinstance(leaf, Tensor) else None
            if digest is None or digest not in held:
                found.append(leaf)
            if digest is not None:
                held[digest] = round
        return found

    def look(self, values: Iterable[Any]) -> None:
        """Digests all new tensors of messages that are on an accelerator together: it is waited for once."""
        new: dict[str, dict[int, Tensor]] = {}
        for value in {id(value): value for value in values}.values():
            tensors = [leaf for leaf in trees.sent(value) if isinstance(leaf, Tensor)]
            if tensors and not any(map(_accelerated, tensors)):
                break  # the others will be on the same device
            for leaf in tensors:
                if _accelerated(leaf) and id(leaf) not in self._digests:
                    new.setdefault(str(leaf.device), {})[id(leaf)] = leaf
        for leaves in new.values():
            for leaf, digest in zip(leaves.values(), digests([*leaves.values()]), strict=True):
                self._keep(leaf, digest)

    def state(self) -> list[Any]:
        """What nodes have got of the server in their last round: its number, the contents, and which nodes."""
        alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for link, held in self._held.items():
            if SERVER in link and held:
                last = self._last[link]
                contents = tuple(sorted(digest.hex() for digest, used in held.items() if used == last))
                alike.setdefault((last, contents), []).append(link.target)
        return [[last, list(contents), nodes] for (last, contents), nodes in alike.items()]

    def restore(self, state: Sequence[Any]) -> None:
        """Takes back `state()`, which may have been JSON."""
        for last, contents, nodes in state:
            for node in nodes:
                link = Link(SERVER, int(node))
                self._held[link] = {bytes.fromhex(digest): int(last) for digest in contents}
                self._last[link] = int(last)

    def _digest(self, leaf: Tensor) -> bytes:
        if id(leaf) not in self._digests and _accelerated(leaf):
            self.look([leaf])
        elif id(leaf) not in self._digests:
            plain = leaf.detach().resolve_conj().contiguous()
            sum_ = hashlib.blake2b(str((tuple(leaf.shape), leaf.dtype)).encode(), digest_size=16)
            if plain.numel():
                sum_.update(plain.reshape(-1).view(torch.uint8).numpy().data)
            self._keep(leaf, sum_.digest())
        return self._digests[id(leaf)][1]

    def _keep(self, leaf: Tensor, digest: bytes) -> None:
        key = id(leaf)
        self._digests[key] = weakref.ref(leaf, lambda _: self._digests.pop(key, None)), digest


def _accelerated(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"
