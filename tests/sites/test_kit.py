"""Kits: what provision writes can be used, and by nobody else; what is wrong with one is said in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fedtangent.cli import main
from fedtangent.sites.kit import check_consent, kit
from fedtangent.sites.provision import provision, revoke
from fedtangent.transports._tls import Address, context

SERVED = 'name = "hearts"\n[server]\naddress = "fl.example.org:8443"\n[sites.berlin]\n[sites.paris]\n'
PEERS = 'name = "hearts"\n[sites.berlin]\naddress = "[::1]:7000"\n[sites.paris]\naddress = "b.example.org:7001"\n'
RELAYED = '[relay]\naddress = "relay.example.org:8443"\n'


def written(folder: Path, text: str) -> Path:
    (folder / "federation.toml").write_text(text, encoding="utf-8")
    provision(folder / "federation.toml", folder / "kits")
    return folder / "kits"


def test_a_kit_for_every_site_with_a_key_that_nobody_else_may_read(tmp_path: Path) -> None:
    folder = written(tmp_path, SERVED)
    assert {path.name for path in folder.iterdir()} == {"authority", "server", "berlin", "paris"}
    for path in folder.glob("*/*key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len([*folder.glob("*/*key.pem")]) == 4
    found = kit(folder / "paris")
    assert (found.federation, found.name, found.sites, found.served) == ("hearts", "paris", ["berlin", "paris"], True)
    assert found.book == {"server": Address("fl.example.org", 8443), "berlin": None, "paris": None}
    assert abs(found.expires - datetime.now(UTC) - timedelta(days=365)) < timedelta(minutes=5)
    assert found.warning is None
    assert context(found.identity, server=True).minimum_version.name == "TLSv1_3"


def test_addresses_of_sites_without_a_server(tmp_path: Path) -> None:
    found = kit(written(tmp_path, PEERS) / "berlin")
    assert str(Address("::1", 7000)) == "[::1]:7000" and str(Address("b", 7001)) == "b:7001"
    assert found.book == {"berlin": Address("::1", 7000), "paris": Address("b.example.org", 7001)}
    assert not found.served


def test_whoever_has_no_address_is_called_by_the_relay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server, or some of the peers."""
    folder = written(tmp_path, SERVED.replace('address = "fl.example.org:8443"\n', "") + RELAYED)
    assert {path.name for path in folder.iterdir()} == {"authority", "server", "berlin", "paris", "relay"}
    found = kit(folder / "paris")
    assert (found.book["server"], found.relay) == (None, Address("relay.example.org", 8443))
    assert kit(folder / "relay", relay=True).name == "relay"
    assert not (folder / "relay" / "consent.toml").exists()
    assert main(["server", str(folder / "server"), "fedavg", "--listen", "127.0.0.1:7000"]) == 2
    assert "`listen` must be left out for server, which is called by the relay; got it." in capsys.readouterr().err
    (tmp_path / "peers").mkdir()
    found = kit(written(tmp_path / "peers", PEERS.replace('address = "[::1]:7000"\n', "") + RELAYED) / "paris")
    assert found.book == {"berlin": None, "paris": Address("b.example.org", 7001)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = 3\n[sites.a]\n[sites.b]\n", "`name` must be a short text; got 3."),
        (
            SERVED.replace("name", "nmae"),
            "`federation` must hold name, days, server, relay, sites; got 'nmae'. Drop it.",
        ),
        ('name = "x"\n[sites.berlin]\n', "`sites` must be at least two tables such as"),
        (SERVED.replace("paris", "Paris"), "`sites` must have names of small letters, digits and dashes"),
        (SERVED.replace("paris", "authority"), "other than server, relay and authority; got 'authority'."),
        (PEERS.replace(":7001", ""), "`sites.paris` must have an address host:port; got 'b.example.org'. Give one."),
        (SERVED + 'address = "a:1"\n', "`sites.paris` must be empty in a federation with a server"),
        (SERVED + RELAYED, "`relay` must be of use to a server or site without an address; got an address of each."),
        (PEERS + RELAYED, "`relay` must be of use to a server or site without an address; got an address of each."),
        *[
            (
                PEERS.replace("b.example.org:7001", wrong),
                f"`sites.paris` must have an address host:port; got {wrong!r}.",
            )
            for wrong in (
                "b:70000",
                "b:²",
                "b:0",
                "https://b.example.org:7001",
                "::1:7001",
                "b c:7001",
                "me@b:7001",
                "[b:7001",
            )
        ],
        (PEERS + "[relay]\n", "`relay` must have an address host:port; got None. Give one."),
        (SERVED.replace("paris", "relay"), "other than server, relay and authority; got 'relay'."),
        (SERVED.replace('address = "fl.example.org:8443"\n', ""), "`server` must have an address host:port; got None."),
        ("days = -1\n" + SERVED, "`days` must be a number up to 3650; got -1."),
        ("name = ", "`federation` must be a .toml file; got"),
    ],
)
def test_a_federation_that_cannot_be(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "federation.toml").write_text(text)
    assert main(["provision", str(tmp_path / "federation.toml"), "--out", str(tmp_path / "kits")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "kits").exists()


def test_kits_are_never_written_over(tmp_path: Path) -> None:
    written(tmp_path, SERVED)
    with pytest.raises(ValueError, match=r"`out` must be a new folder; got .*kits, which holds something"):
        written(tmp_path, SERVED)


def test_a_key_that_others_may_read(tmp_path: Path) -> None:
    folder = written(tmp_path, SERVED)
    (folder / "paris" / "key.pem").chmod(0o640)
    with pytest.raises(ValueError, match=r"must have a key that nobody else may read; got .*key.pem with mode 640"):
        kit(folder / "paris")


@pytest.mark.skipif(os.name != "posix", reason="a key belongs to a user where there are users")
def test_a_key_of_another_user_is_told_from_a_broken_kit() -> None:
    """As in a container that runs as another user than the one who made the kits."""
    with tempfile.TemporaryDirectory() as name:
        folder = written(Path(name), SERVED)
        kit(folder / "paris")
        key, user = folder / "paris" / "key.pem", os.geteuid()
        Path(name).chmod(0o755)
        key.chmod(0 if user else 0o600)
        try:
            os.seteuid(user or 65534)
            with pytest.raises(
                ValueError, match=rf"got Permission denied for user {os.geteuid()} at .*key.pem\. Run as"
            ):
                kit(folder / "paris")
        finally:
            os.seteuid(user)
        key.unlink()
        with pytest.raises(ValueError, match=r"its user may read; got No such file or directory for user"):
            kit(folder / "paris")


def test_a_kit_with_the_certificate_of_another_site(tmp_path: Path) -> None:
    folder = written(tmp_path, SERVED)
    shutil.copy(folder / "berlin" / "site.pem", folder / "paris" / "site.pem")
    with pytest.raises(ValueError, match="must hold the certificate of paris; got that of berlin"):
        kit(folder / "paris")


def test_a_folder_that_is_no_kit(tmp_path: Path) -> None:
    folder = written(tmp_path, SERVED)
    for content in ("", "{}", "[]", json.dumps({"name": "x", "federation": "y", "book": {}}), '{"book": {"a": [1]}}'):
        (folder / "paris" / "kit.json").write_text(content)
        with pytest.raises(ValueError, match="`kit` must be a folder from fedtangent provision; got"):
            kit(folder / "paris")
    with pytest.raises(ValueError, match="`kit` must be a folder from fedtangent provision; got"):
        kit(tmp_path / "nowhere")


def test_a_key_that_is_not_that_of_the_certificate(tmp_path: Path) -> None:
    folder = written(tmp_path, SERVED)
    shutil.copy(folder / "berlin" / "key.pem", folder / "paris" / "key.pem")
    with pytest.raises(ValueError, match=r"`kit` must hold the certificates of paris; got key values mismatch in"):
        context(kit(folder / "paris").identity, server=False)


def test_a_certificate_that_expires_soon_is_told_of(tmp_path: Path) -> None:
    found = kit(written(tmp_path, "days = 13\n" + SERVED) / "paris")
    assert found.warning is not None
    assert found.warning.startswith("The certificate of paris expires on ")


def test_consent_is_written_by_the_owner_of_the_data(tmp_path: Path) -> None:
    found = kit(written(tmp_path, SERVED) / "paris")
    for level in ("none", "aggregate"):
        check_consent(found, level)
    for level in ("kernel", "raw-equivalent"):
        with pytest.raises(ValueError, match=f"`consent.toml` must allow the exposure '{level}' at paris; got no"):
            check_consent(found, level)
    (found.folder / "consent.toml").write_text('exposures = ["kernel"]\n')
    check_consent(found, "kernel")
    with pytest.raises(ValueError, match="raw-equivalent"):
        check_consent(found, "raw-equivalent")


def test_files_of_an_editor_that_marks_the_order_of_bytes(tmp_path: Path) -> None:
    found = kit(written(tmp_path, "\ufeff" + SERVED.replace("hearts", "Herzen in Köln")) / "paris")
    assert found.federation == "Herzen in Köln"
    (found.folder / "consent.toml").write_text('\ufeffexposures = ["kernel"]\n', encoding="utf-8")
    check_consent(found, "kernel")


@pytest.mark.parametrize("text", ['exposures = "kernel"', 'exposures = ["kernle"]', "exposures = [[]]", "exposures"])
def test_a_consent_that_is_none(text: str, tmp_path: Path) -> None:
    folder = written(tmp_path, SERVED)
    (folder / "paris" / "consent.toml").write_text(text)
    with pytest.raises(ValueError, match=r"`consent.toml` must list exposures out of none, aggregate, kernel"):
        kit(folder / "paris")


def test_revoking_adds_to_the_lists_of_all_kits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, SERVED)
    assert main(["revoke", str(folder), "paris"]) == 0
    revoke(folder, "berlin")
    lists = {path.read_bytes() for path in folder.glob("*/revoked.pem")}
    assert len(lists) == 1
    from cryptography import x509

    (content,) = lists
    serials = {one.serial_number for one in x509.load_pem_x509_crl(content)}
    for name, gone in {"paris": True, "berlin": True, "server": False}.items():
        shown = x509.load_pem_x509_certificate((folder / name / "site.pem").read_bytes())
        assert (shown.serial_number in serials) == gone
    assert main(["revoke", str(folder), "rome"]) == 2
    assert "`kits` must hold the authority and the kit of rome; got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["site"], "`KIT` must come first after site; got nothing."),
        (["start", "kits/x"], "`KIT METHOD` must come first after start; got kits/x."),
        (
            ["server", "kits/x", "fedavg", "--nodes", "3"],
            "`nodes` must be left out of a real federation, which has its sites, rows",
        ),
        (["server", "kits/x", "fedavg", "--data-dir", "x"], "`data_dir` must be an option of server; got an unknown"),
        (
            ["start", "kits/x", "dfedavg", "--partition", "iid"],
            "`partition` must be left out of a real federation",
        ),
        (["server", "kits/x", "fedavg", "--fault", "dropout"], "`fault` must be left out of a real federation"),
        (["site", "kits/x", "--rounds", "3"], "`rounds` must be an option of site; got an unknown name."),
        (["server", "kits/x", "fedavg"], "`kit` must be a folder from fedtangent provision; got kits/x"),
    ],
)
def test_words_that_a_command_does_not_take(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert told in capsys.readouterr().err


def test_the_wrong_command_for_a_kit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, SERVED)
    assert main(["server", str(folder / "paris"), "fedavg"]) == 2
    assert "`kit` must be the server's for this command; got that of paris." in capsys.readouterr().err
    assert main(["site", str(folder / "server"), "--dataset", "digits"]) == 2
    assert "`kit` must be a site's for this command; got the server's." in capsys.readouterr().err
    assert main(["relay", str(folder / "paris")]) == 2
    told = "`kit` must be the relay's for this command; got that of paris. Use fedtangent site."
    assert told in capsys.readouterr().err
    (tmp_path / "relayed").mkdir()
    folder = written(tmp_path / "relayed", PEERS.replace('address = "[::1]:7000"\n', "") + RELAYED)
    for words in (["site"], ["start", "dfedavg"]):
        assert main([words[0], str(folder / "relay"), *words[1:], "--dataset", "digits"]) == 2
        told = "`kit` must be a site's for this command; got that of relay. Use fedtangent relay."
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", ["provision", "revoke", "relay", "status", "server", "site", "start"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: fedtangent {command}" in capsys.readouterr().out
