"""Provision: a federation's authority, and a kit for every site.

The authority's key stays with whoever provisions; it signs and revokes, and is needed for nothing else. Certificates
are X.509 with keys on the curve P-256, for TLS at both ends, and name the site, whatever its address.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fedtangent.errors import SettingError
from fedtangent.sites.kit import NAME, SERVER, address
from fedtangent.transports._relay import RELAY

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAYS = 365
_Book = dict[str, tuple[str, int] | None]
_TOLD = ("name", "days", "server", "relay", "sites")
_EARLIER = timedelta(hours=1)  # by which clocks may differ
_CONSENT = """\
# What the owner of this site's data allows to leave it. Sums over all rows of the site (exposure "aggregate") need no
# line here. "kernel" (similarities between rows) and "raw-equivalent" (what tells the rows themselves) do:
# exposures = ["kernel"]
exposures = []
"""


def provision(federation: str | Path, out: str | Path) -> list[str]:
    """Writes the kits of a federation that a .toml file describes; their names, the server first, the relay last.

        name = "hearts"
        days = 365                      # that certificates last; may be left out
        [server]                        # left out where sites are to talk to each other
        address = "fl.example.org:8443"
        [sites.berlin]
        address = "berlin.example.org:8443"   # left out where there is a server
        [sites.paris]
        [relay]                         # for a server, or sites, that have no address and are called all the same
        address = "relay.example.org:8443"

    Args:
        federation: Path of the file.
        out: A new folder, which gets a folder `authority` and one for every site.

    Raises:
        ValueError: The file tells something else, or the folder is there.
    """
    name, days, book, relay = _read(Path(federation))
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError(f"`out` must be a new folder; got {folder}, which holds something. Name another.")
    authority = _Authority(name, timedelta(days=days))
    revoked = _revoked(authority.key, authority.certificate, ())
    _write(folder / "authority", {"authority.pem": authority.pem, "revoked.pem": revoked})
    _write_key(folder / "authority" / "authority-key.pem", authority.key)
    names = [*book, *([] if relay is None else [RELAY])]
    for site in names:
        made, key = authority.signed(site)
        told = {"federation": name, "name": site, "book": book, "relay": relay}
        _write(
            folder / site,
            {
                "kit.json": json.dumps(told, indent=1).encode(),
                "authority.pem": authority.pem,
                "revoked.pem": revoked,
                "site.pem": made,
                **({} if site == RELAY else {"consent.toml": _CONSENT.encode()}),
            },
        )
        _write_key(folder / site / "key.pem", key)
    return names


def revoke(kits: str | Path, site: str) -> list[Path]:
    """Puts a site's certificate on the list of those that count no more; the lists to bring to the sites.

    Args:
        kits: The folder that `provision` wrote, with the authority and the site's kit.
        site: Its name.

    Raises:
        ValueError: They are not there, or not of one federation.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    folder = Path(kits)
    try:
        shown = x509.load_pem_x509_certificate((folder / site / "site.pem").read_bytes())
        before = x509.load_pem_x509_crl((folder / "authority" / "revoked.pem").read_bytes())
        key = load_pem_private_key((folder / "authority" / "authority-key.pem").read_bytes(), None)
        authority = x509.load_pem_x509_certificate((folder / "authority" / "authority.pem").read_bytes())
        shown.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature) as error:
        raise SettingError(
            f"`kits` must hold the authority and the kit of {site}; got {kits} ({type(error).__name__}). Name the "
            "folder that fedtangent provision wrote."
        ) from error
    serials = tuple(dict.fromkeys((*(one.serial_number for one in before), shown.serial_number)))
    content = _revoked(cast("EllipticCurvePrivateKey", key), authority, serials)
    found = sorted(folder.glob("*/revoked.pem"))
    for path in found:
        path.write_bytes(content)
    return found


def _revoked(key: "EllipticCurvePrivateKey", authority: "x509.Certificate", serials: Sequence[int]) -> bytes:
    """The authority's list of certificates that count no more, valid as long as itself."""
    from cryptography import x509

    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now - _EARLIER).next_update(authority.not_valid_after_utc + _EARLIER)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    builder = builder.add_extension(signer, critical=False)
    builder = builder.add_extension(x509.CRLNumber(1 + len(serials)), critical=False)
    for serial in serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        builder = builder.add_revoked_certificate(entry.build())
    return _pem(builder.sign(key, _sha256()))


class _Authority:
    """Whose signature makes a site one of the federation."""

    def __init__(self, federation: str, lasts: timedelta) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        self.key, self._lasts, self._now = ec.generate_private_key(ec.SECP256R1()), lasts, datetime.now(UTC)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {federation}")])
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = self._begun(self._name, self.key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        self.certificate = builder.sign(self.key, _sha256())

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return _pem(self.certificate)

    def signed(self, site: str) -> "tuple[bytes, EllipticCurvePrivateKey]":
        """A site's certificate, and its new key."""
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)]), key)
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(both, critical=False).add_extension(signer, critical=False)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(site)]), critical=False)
        return _pem(builder.sign(self.key, _sha256())), key

    def _begun(self, subject: "x509.Name", key: "EllipticCurvePrivateKey") -> "x509.CertificateBuilder":
        from cryptography import x509

        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(self._now - _EARLIER).not_valid_after(self._now + self._lasts)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        return builder.add_extension(identifier, critical=False)


def _read(path: Path) -> tuple[str, float, _Book, tuple[str, int] | None]:
    """A federation's name, how many days its certificates last, its address book, and where its relay listens."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SettingError(
            f"`federation` must be a .toml file; got {path} ({' '.join(str(error).split())}). Write one."
        ) from error
    name, days, sites = told.get("name"), told.get("days", DAYS), told.get("sites")
    for key in told:
        if key not in _TOLD:
            raise SettingError(f"`federation` must hold {', '.join(_TOLD)}; got {key!r}. Drop it.")
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 60:
        raise SettingError(f"`name` must be a short text; got {name!r}. Name the federation.")
    if not isinstance(days, (int, float)) or isinstance(days, bool) or not 0 < days <= 3650:
        raise SettingError(f"`days` must be a number up to 3650; got {days!r}. Give such a number.")
    if not isinstance(sites, dict) or len(sites) < 2:
        raise SettingError("`sites` must be at least two tables such as [sites.berlin]; got fewer. Add some.")
    relay = _address("relay", told["relay"]) if "relay" in told else None
    book: _Book = {SERVER: _called(SERVER, told["server"], relay)} if SERVER in told else {}
    for site, own in sites.items():
        if not NAME.fullmatch(site) or site in (SERVER, RELAY, "authority"):
            raise SettingError(
                f"`sites` must have names of small letters, digits and dashes, other than server, relay and authority; "
                f"got {site!r}. Choose another."
            )
        if SERVER in told and own:
            raise SettingError(
                f"`sites.{site}` must be empty in a federation with a server, which sites call; got {own}. Drop it."
            )
        book[site] = None if SERVER in told else _called(f"sites.{site}", own, relay)
    if relay is not None and None not in ([book[SERVER]] if SERVER in book else book.values()):
        raise SettingError(
            "`relay` must be of use to a server or site without an address; got an address of each. Drop it, or the "
            "address of what cannot be called."
        )
    return name, float(days), book, relay


def _called(whose: str, table: Any, relay: tuple[str, int] | None) -> tuple[str, int] | None:
    """The address of what others call; None where they do so by the relay."""
    return None if relay is not None and table == {} else _address(whose, table)


def _address(whose: str, table: Any) -> tuple[str, int]:
    text = table.get("address") if isinstance(table, Mapping) else None
    found = address(text) if isinstance(text, str) else None
    if found is None or not found.port:
        raise SettingError(f"`{whose}` must have an address host:port; got {text!r}. Give one.")
    return found.host, found.port


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_key(path: Path, key: "EllipticCurvePrivateKey") -> None:
    """Writes a private key that nobody else may read, at no moment."""
    from cryptography.hazmat.primitives import serialization as form

    content = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _usage(**allowed: bool) -> "x509.KeyUsage":
    from cryptography import x509

    ours = ("digital_signature", "key_cert_sign", "crl_sign")
    none = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    return x509.KeyUsage(**{**dict.fromkeys((*ours, *none, "decipher_only"), False), **allowed})


def _sha256() -> Any:
    from cryptography.hazmat.primitives.hashes import SHA256

    return SHA256()


def _pem(made: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(made.public_bytes(Encoding.PEM))
