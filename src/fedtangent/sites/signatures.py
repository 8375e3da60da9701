"""Signatures: what a process of a federation has said, so that nobody who passes it on, or keeps it, can change it."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from fedtangent.errors import SettingError
from fedtangent.sites.kit import Kit

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.x509 import Certificate


def signed(own: Kit, text: bytes) -> dict[str, str]:
    """This process's signature of a text, by ECDSA with SHA-256, and the certificate that it is checked with."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    identity = own.identity
    signer = cast("EllipticCurvePrivateKey", load_pem_private_key(identity.key.read_bytes(), None))
    signature = signer.sign(text, ec.ECDSA(SHA256()))
    return {"signature": signature.hex(), "certificate": identity.certificate.read_text()}


def check(own: Kit, name: str, text: bytes, told: Any, what: str, kept: bool = False) -> None:
    """Raises where a text is not signed by a process of this federation.

    Args:
        own: The kit of who checks it.
        name: Of the process that should have signed it.
        text: The text.
        told: From `signed`.
        what: The text's name, for the message.
        kept: Whether it was signed earlier, by a certificate that may have expired or been revoked since.

    Raises:
        ValueError: It is signed by another, with a certificate that counts no more, or not at all.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        shown = x509.load_pem_x509_certificate(told["certificate"].encode())
        shown.verify_directly_issued_by(x509.load_pem_x509_certificate(own.identity.authority.read_bytes()))
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if names.get_values_for_type(x509.DNSName) != [name]:
            raise ValueError("of another site")
        if not kept:
            _check_counts(own, shown)
        signer = cast("EllipticCurvePublicKey", shown.public_key())
        signer.verify(bytes.fromhex(told["signature"]), text, ec.ECDSA(SHA256()))
    except (ValueError, TypeError, KeyError, AttributeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise SettingError(
            f"`{name}` must sign {what} with its certificate; got another ({type(error).__name__}). Do not go on: "
            "somebody between the sites may have changed it."
        ) from error


def _check_counts(own: Kit, shown: "Certificate") -> None:
    """Raises ValueError where a certificate has expired or is revoked."""
    from cryptography import x509

    if not shown.not_valid_before_utc <= datetime.now(UTC) <= shown.not_valid_after_utc:
        raise ValueError("expired")
    revoked = x509.load_pem_x509_crl(own.identity.revoked.read_bytes())
    if revoked.get_revoked_certificate_by_serial_number(shown.serial_number) is not None:
        raise ValueError("revoked")
