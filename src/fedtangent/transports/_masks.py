"""Masks: what a sender puts on its part of a sum, so that a receiver learns the sum and nothing of any part.

Bonawitz et al. Practical Secure Aggregation for Privacy-Preserving Machine Learning. CCS 2017, section 4, without the
shares for those who drop out: their round is done again among the others, or with them (`sites.sums_sent` says when).

    part_i = fixed(x_i) + sum_{j > i} mask_ij - sum_{j < i} mask_ij      mod 2^64
    sum_i part_i = sum_i fixed(x_i)                                       mod 2^64

mask_ij are the bytes of ChaCha20 under a key that only i and j can derive, for this leg of this verb of this run alone;
they are uniform over the ring, and so is each part to whom lacks a key. Numbers are multiples of 2^-32: the sum is the
exact sum of the rounded parts.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError
from fedtangent.federation.transport import Tag

BITS = 32  # after the point
_MOST = 2.0**62  # of a sum in the ring, so that its sign is known


class Masks:
    """What one process knows to mask its parts.

    Args:
        run: 16 bytes that no other run has.
        secrets: 32 bytes shared with every other sender, by its node.
        sending: Called before every part that is masked.
    """

    def __init__(self, run: bytes, secrets: Mapping[int, bytes], sending: Callable[[], None] = lambda: None) -> None:
        self._run, self._secrets, self._sending = run, dict(secrets), sending
        self._used: Counter[tuple[Tag, int, int]] = Counter()

    def masked(self, tag: Tag, receiver: int, sender: int, senders: Sequence[int], part: list[Tensor]) -> list[Tensor]:
        """A sender's part of a sum, each of its leaves int64, masked against all other senders.

        Args:
            tag: Of the sum; where it comes again, all senders mask anew.
            receiver: Who adds.
            sender: Whose part it is.
            senders: All whose parts are added.
            part: From `fixed`.
        """
        self._sending()
        self._used[tag, receiver, sender] += 1
        place = f"{tag.verb} {tag.leg} {tag.wave} {receiver} {self._used[tag, receiver, sender]}"
        flat = torch.cat([leaf.reshape(-1) for leaf in part]).numpy().view(np.uint64).copy()
        for other in senders:
            if other != sender:
                mask = self._mask(other, place, len(flat))
                flat = flat + mask if sender < other else flat - mask
        pieces = torch.split(torch.from_numpy(flat.view(np.int64)), [leaf.numel() for leaf in part])
        return [piece.reshape(leaf.shape) for piece, leaf in zip(pieces, part, strict=True)]

    def _mask(self, other: int, place: str, count: int) -> np.ndarray:
        """So many uniform numbers that only this process and another one know."""
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        key = HKDF(SHA256(), 32, self._run, place.encode()).derive(self._secrets[other])
        stream = Cipher(ChaCha20(key, bytes(16)), None).encryptor()  # a key is used once
        return np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8").astype(np.uint64)


def fixed(weight: float, value: Any, count: int) -> list[Tensor]:
    """weight times value in the ring, leaf by leaf: multiples of 2^-32, and whole numbers as they are.

    Args:
        weight: A number.
        value: A tree of tensors.
        count: How many such parts are added.

    Raises:
        ValueError: A number that is not finite, or too large for the sum.
    """
    found = []
    for leaf in trees.leaves(value):
        real = leaf.is_floating_point()
        scaled = weight * leaf.detach().cpu().double() * (2.0**BITS if real else 1.0)
        if not bool((scaled.abs() < _MOST / count).all()):  # NaN is not
            raise SettingError(
                f"a masked sum must have finite parts below {_MOST / count / 2**BITS:.3g}; got others. Use smaller "
                "steps, or leave out --secure-sums."
            )
        found.append(scaled.round().long())
    return found


def form(value: Any) -> Any:
    """What tells a receiver the types of a value, and none of its numbers."""
    return trees.map(lambda leaf: leaf.new_zeros(0), value)


def opened(form: Any, parts: Sequence[Sequence[Tensor]]) -> Any:
    """The sum of masked parts, as a value.

    Args:
        form: From `form`, of a value such as were added.
        parts: The leaves of all senders.

    Raises:
        ValueError: Parts that do not fit one another.
    """
    kinds = [[(leaf.shape, leaf.dtype) for leaf in part] for part in parts]
    if any(kind != kinds[0] for kind in kinds) or len(kinds[0]) != len(trees.leaves(form)):
        raise ValueError("parts of several forms")
    sums = iter([torch.from_numpy(_added(its)).reshape(its[0].shape) for its in zip(*parts, strict=True)])

    def one(leaf: Tensor) -> Tensor:
        total = next(sums)
        return (total.double() / 2.0**BITS if leaf.is_floating_point() else total).to(leaf.dtype).to(leaf.device)

    return trees.map(one, form)


def _added(parts: Sequence[Tensor]) -> np.ndarray:
    """The sum modulo 2^64."""
    total = np.zeros(parts[0].numel(), dtype=np.uint64)
    for part in parts:
        total = total + part.reshape(-1).numpy().view(np.uint64)
    return total.view(np.int64)
