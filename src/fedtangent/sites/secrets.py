"""Secrets: a number for every pair of sites that nobody else can derive, the server included, new in every run.

Each site draws a key of X25519 and signs its public part with the key of its certificate. Whoever passes them on can
read them and change nothing: every site checks certificate and signature of every other one against the authority.
"""

from collections.abc import Mapping
from typing import Any

from fedtangent.sites import signatures
from fedtangent.sites.kit import Kit


class Drawn:
    """A site's key of one run.

    Args:
        own: The site's kit.
        run: The run's number.
    """

    def __init__(self, own: Kit, run: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        self._own, self._run = own, run
        self._key: X25519PrivateKey = X25519PrivateKey.generate()

    def told(self) -> dict[str, str]:
        """What the others are told: public key, signature and certificate."""
        public = self._key.public_key().public_bytes_raw()
        return {"key": public.hex(), **signatures.signed(self._own, _text(self._run, self._own.name, public))}

    def shared(self, told: Mapping[str, Any]) -> dict[str, bytes]:
        """32 bytes with every other site, by its name.

        Args:
            told: Of all sites, by name.

        Raises:
            ValueError: A key that its site has not signed.
        """
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        found = {}
        for name, one in told.items():
            if name != self._own.name:
                public = _checked(self._own, self._run, name, one)
                found[name] = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        return found


def _checked(own: Kit, run: bytes, name: str, told: Any) -> bytes:
    """The public key of a site, signed by the owner of its certificate."""
    try:
        public = bytes.fromhex(told["key"])
    except (ValueError, TypeError, KeyError, AttributeError):
        public = b""
    signatures.check(own, name, _text(run, name, public), told, "its key of this run")
    return public


def _text(run: bytes, name: str, public: bytes) -> bytes:
    """What a site signs."""
    return b"fedtangent secure sums 1\0" + run + name.encode() + b"\0" + public
