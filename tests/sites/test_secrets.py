"""Secrets: two sites derive the same number, whoever passes the keys on; one that was changed on its way is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedtangent.sites import signatures
from fedtangent.sites.kit import kit
from fedtangent.sites.provision import revoke
from fedtangent.sites.secrets import Drawn
from tests.sites.processes import kits

NAMES = ("berlin", "paris", "rome")
RUN = bytes(range(16))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return kits(tmp_path, True, NAMES)


def drawn(folder: Path, run: bytes = RUN) -> dict[str, Drawn]:
    return {name: Drawn(kit(folder / name), run) for name in NAMES}


def test_every_pair_has_a_secret_of_its_own(folder: Path) -> None:
    sites = drawn(folder)
    told = {name: one.told() for name, one in sites.items()}
    found = {name: one.shared(told) for name, one in sites.items()}
    pairs = [(one, other) for one in NAMES for other in NAMES if one < other]
    assert all(found[one][other] == found[other][one] for one, other in pairs)
    assert len({found[one][other] for one, other in pairs}) == 3
    again = drawn(folder)
    assert again["paris"].shared({name: one.told() for name, one in again.items()}) != found["paris"]


@pytest.mark.parametrize("how", ["key", "signature", "other", "run", "federation", "revoked", "nothing"])
def test_a_key_that_its_site_has_not_signed(how: str, folder: Path, tmp_path: Path) -> None:
    sites = drawn(folder)
    told = {name: one.told() for name, one in sites.items()}
    changed = dict(told["rome"])
    if how == "key":  # as whoever passes it on would want to, to read what is masked with it
        changed["key"] = told["berlin"]["key"]
    elif how == "signature":
        changed["signature"] = told["berlin"]["signature"]
    elif how == "other":
        changed = told["berlin"]
    elif how == "run":
        changed = drawn(folder, bytes(16))["rome"].told()
    elif how == "federation":
        (tmp_path / "other").mkdir()
        changed = Drawn(kit(kits(tmp_path / "other", True, NAMES) / "rome"), RUN).told()
    elif how == "revoked":
        revoke(folder, "rome")
    else:
        changed = {}
    with pytest.raises(ValueError, match="`rome` must sign its key of this run with its certificate; got another"):
        sites["paris"].shared({**told, "rome": changed})


def test_a_text_that_was_changed_is_not_signed(folder: Path) -> None:
    one, other = kit(folder / "rome"), kit(folder / "paris")
    told = signatures.signed(one, b"what is agreed")
    signatures.check(other, "rome", b"what is agreed", told, "the plan")
    for name, text in (("rome", b"what else is agreed"), ("berlin", b"what is agreed")):
        with pytest.raises(ValueError, match=f"`{name}` must sign the plan with its certificate; got another"):
            signatures.check(other, name, text, told, "the plan", kept=True)
    revoke(folder, "rome")
    signatures.check(other, "rome", b"what is agreed", told, "the plan", kept=True)
    with pytest.raises(ValueError, match="`rome` must sign the plan with its certificate; got another"):
        signatures.check(other, "rome", b"what is agreed", told, "the plan")
