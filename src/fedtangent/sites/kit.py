"""Kit: the folder that makes a machine a site of a federation: address book, certificate, key, and what it consents to.

kit.json       federation, name of the site, address book
authority.pem  the certificate that all others are signed by
revoked.pem    the authority's list of certificates that count no more
site.pem       the site's certificate; key.pem its private key, which nobody else may read
consent.toml   which exposures the site's owner allows, in writing
"""

import json
import os
import re
import stat
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, get_args

from fedtangent.errors import SettingError
from fedtangent.federation.method import Exposure
from fedtangent.transports._relay import RELAY
from fedtangent.transports._tls import Address, Identity

SERVER = "server"
EXPOSURES = get_args(Exposure)
_ADDRESS = re.compile(r"(?P<host>[^\s:/@\[\]]+|\[[0-9a-fA-F:.]+(%\w+)?\]):(?P<port>[0-9]{1,5})")
NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
_SOON = timedelta(days=14)
_FREE = ("none", "aggregate")  # exposures that need no consent of their own


class Kit(NamedTuple):
    """A site's kit.

    Attributes:
        folder: Where it lies.
        federation: Its name.
        name: The site's, or "server", or "relay".
        book: Where every process listens, in their order, the server's first where there is one; None for a site that
            only calls the server, or is called by the relay.
        expires: When the site's certificate does.
        relay: Where the relay listens; None where there is none.
    """

    folder: Path
    federation: str
    name: str
    book: dict[str, Address | None]
    expires: datetime
    relay: Address | None = None

    @property
    def identity(self) -> Identity:
        """What the site shows and trusts."""
        site, key, authority, revoked = ("site.pem", "key.pem", "authority.pem", "revoked.pem")
        return Identity(
            self.name, self.folder / site, self.folder / key, self.folder / authority, self.folder / revoked
        )

    @property
    def served(self) -> bool:
        """Whether the federation has a server."""
        return SERVER in self.book

    @property
    def sites(self) -> list[str]:
        """Those that hold data, in their order: node k is the k-th."""
        return [name for name in self.book if name != SERVER]

    def number(self, name: str) -> int:
        """The place of a process in the address book."""
        return list(self.book).index(name)

    @property
    def warning(self) -> str | None:
        """A sentence where the certificate expires within two weeks."""
        if self.expires - datetime.now(UTC) > _SOON:
            return None
        return f"The certificate of {self.name} expires on {self.expires:%Y-%m-%d}. Ask for a new kit."


def kit(folder: str | Path, relay: bool | None = False) -> Kit:
    """The kit in a folder, checked.

    Args:
        folder: Where it lies.
        relay: Whether it is to be the relay's; None where it may be anybody's.

    Raises:
        ValueError: It is none, is damaged, belongs to another site, has expired, or its key may be read by others, or
            not by its user.
    """
    path = Path(folder)
    try:
        told = json.loads((path / "kit.json").read_text())
        book = {str(name): _address(address) for name, address in told["book"].items()}
        name, federation, by = str(told["name"]), str(told["federation"]), _address(told.get("relay"))
        if name not in book and (name != RELAY or by is None):
            raise KeyError(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise SettingError(
            f"`kit` must be a folder from fedtangent provision; got {path} ({type(error).__name__}). Check "
            "the path, or copy the kit anew."
        ) from error
    if relay not in (None, name == RELAY):
        raise SettingError(
            f"`kit` must be {'the relay' if relay else 'a site'}'s for this command; got that of {name}. "
            f"Use fedtangent {'site' if relay else 'relay'}."
        )
    found = Kit(path, federation, name, book, _checked(path, name), by)
    _check_key(path / "key.pem")
    consents(found)
    return found


def consents(found: Kit) -> tuple[str, ...]:
    """The exposures that the site's owner allows.

    Raises:
        ValueError: consent.toml is none.
    """
    path = found.folder / "consent.toml"
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("exposures", []) if path.exists() else []
        if not isinstance(told, list) or not {*told} <= {*EXPOSURES}:
            raise ValueError(f"exposures = {told}")
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(
            f"`consent.toml` must list exposures out of {', '.join(EXPOSURES)}; got {error} in {path}. "
            'Write exposures = ["kernel"].'
        ) from error
    return tuple(dict.fromkeys((*_FREE, *told)))


def check_consent(found: Kit, exposure: str) -> None:
    """Raises ValueError where the site's owner has not allowed an exposure in writing."""
    if exposure not in consents(found):
        raise SettingError(
            f"`consent.toml` must allow the exposure {exposure!r} at {found.name}; got no consent in its kit. "
            f'Let the owner of the data write exposures = ["{exposure}"] there, or run another method.'
        )


def _check_key(path: Path) -> None:
    """Raises ValueError where others may read a key, or its user may not."""
    try:
        with path.open("rb") as key:
            mode = stat.S_IMODE(os.fstat(key.fileno()).st_mode)
    except OSError as error:
        raise SettingError(
            f"`kit` must have a key that its user may read; got {error.strerror} for user {os.geteuid()} at {path}. "
            "Run as the owner of the key, or copy the kit anew."
        ) from error
    if mode & 0o077:
        raise SettingError(
            f"`kit` must have a key that nobody else may read; got {path} with mode {mode:o}. Use chmod 600."
        )


def address(text: str) -> Address | None:
    """What "host:port" names, such as fl.example.org:8443 or [::1]:8443; None where it is no such text."""
    found = _ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) >= 2**16:
        return None
    return Address(found["host"].strip("[]"), int(found["port"]))


def _address(told: Any) -> Address | None:
    return None if told is None else Address(str(told[0]), int(told[1]))


def _checked(path: Path, name: str) -> datetime:
    """Until when the certificate of a kit lasts."""
    from cryptography import x509

    try:
        shown = x509.load_pem_x509_certificate((path / "site.pem").read_bytes())
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        held = names.get_values_for_type(x509.DNSName)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise SettingError(
            f"`kit` must hold a certificate; got none in {path} ({type(error).__name__}). Copy the kit anew."
        ) from error
    if held != [name]:
        raise SettingError(
            f"`kit` must hold the certificate of {name}; got that of {', '.join(held)} in {path}. Copy the kit anew."
        )
    begins, ends, now = shown.not_valid_before_utc, shown.not_valid_after_utc, datetime.now(UTC)
    if now < begins:
        raise SettingError(
            f"`kit` must hold a certificate that is valid now; got one from {begins:%Y-%m-%d %H:%M} UTC in {path}. "
            "Set this machine's clock."
        )
    if now > ends:
        raise SettingError(
            f"`kit` must hold a certificate that is valid now; got one that expired on {ends:%Y-%m-%d %H:%M} UTC in "
            f"{path}. Ask for a new kit, or set this machine's clock."
        )
    return ends
