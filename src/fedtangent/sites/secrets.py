"""Secrets: a number for every pair of sites that nobody else can derive, the server included, new in every run.

Each site draws a key of X25519 and signs its public part with the key of its certificate. Whoever passes them on can
read them and change nothing: every site checks certificate and signature of every other one against the authority.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from fedtangent.errors import SettingError
from fedtangent.sites.kit import Kit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey


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
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        identity = self._own.identity
        signer = cast("EllipticCurvePrivateKey", load_pem_private_key(identity.key.read_bytes(), None))
        public = self._key.public_key().public_bytes_raw()
        signature = signer.sign(_text(self._run, self._own.name, public), ec.ECDSA(SHA256()))
        certificate = identity.certificate.read_text()
        return {"key": public.hex(), "signature": signature.hex(), "certificate": certificate}

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
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        public, signature = bytes.fromhex(told["key"]), bytes.fromhex(told["signature"])
        shown = x509.load_pem_x509_certificate(told["certificate"].encode())
        shown.verify_directly_issued_by(x509.load_pem_x509_certificate(own.identity.authority.read_bytes()))
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.DNSName) != [name] or len(public) != 32:
            raise ValueError("of another site")
        if not shown.not_valid_before_utc <= datetime.now(UTC) <= shown.not_valid_after_utc:
            raise ValueError("expired")
        revoked = x509.load_pem_x509_crl(own.identity.revoked.read_bytes())
        if revoked.get_revoked_certificate_by_serial_number(shown.serial_number) is not None:
            raise ValueError("revoked")
        signer = cast("EllipticCurvePublicKey", shown.public_key())
        signer.verify(signature, _text(run, name, public), ec.ECDSA(SHA256()))
    except (ValueError, TypeError, KeyError, AttributeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise SettingError(
            f"`{name}` must sign its key of this run with its certificate; got another ({type(error).__name__}). Do "
            "not go on: somebody between the sites may have changed it."
        ) from error
    return public


def _text(run: bytes, name: str, public: bytes) -> bytes:
    """What a site signs."""
    return b"fedtangent secure sums 1\0" + run + name.encode() + b"\0" + public
