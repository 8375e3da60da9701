"""examples/hospitals: each container's words, in a folder that holds what the container is given, as a process here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fedtangent import cli
from fedtangent.datasets.heart_disease import HOSPITALS
from fedtangent.sites.provision import provision
from tests.datasets.shared import NEEDS_SHARED, SHARED
from tests.sites import processes

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "hospitals"
if not EXAMPLE.is_dir():
    pytest.skip("a source distribution has no examples", allow_module_level=True)
KEYS = {"image", "build", "user", "init", "restart", "profiles", "volumes", "command"}


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((EXAMPLE / "compose.yaml").read_text(encoding="utf-8"))[
        "services"
    ]
    return found


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """By the path in the container's folder: the path on the host, and whether it may be written."""
    found = {}
    for volume in service["volumes"]:
        assert {*volume} - {"read_only"} == {"type", "source", "target", "bind"}
        assert volume["type"] == "bind" and volume["bind"] == {"create_host_path": False}
        there = str(Path(volume["target"]).relative_to("/work"))
        found[there] = (volume["source"], not volume.get("read_only", False))
    return found


def test_a_container_sees_its_own_key_and_rows_alone() -> None:
    found = services()
    assert {*found} == {"provision", "server", *HOSPITALS}
    for name, service in found.items():
        assert {*service} <= KEYS
        assert service["image"] == "fedtangent" and service["init"] is True
        if name == "provision":
            assert service["profiles"] == ["provision"]
            continue
        own = {"kit": (f"./kits/{name}", True)}
        assert mounts(service) == (own if name == "server" else {**own, "data": (f"./data/{name}", False)})


def test_the_image_is_that_of_the_repository() -> None:
    """With the extra that sites need; the words of a service follow its entry point, in its folder."""
    assert all((EXAMPLE / service["build"]).resolve() == ROOT for service in services().values())
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert 'ENTRYPOINT ["fedtangent"]' in text and "WORKDIR /work\n" in text
    assert re.search(r"/source\[[a-z,]*\bnetwork\b", text)


def test_every_service_has_a_kit(tmp_path: Path) -> None:
    names = provision(EXAMPLE / "federation.toml", tmp_path / "kits")
    assert {*names} == {*services()} - {"provision"}
    host = re.search(r'address = "(\w+):(\d+)"', (EXAMPLE / "federation.toml").read_text(encoding="utf-8"))
    assert host is not None and host[1] == "server"
    words = services()["server"]["command"]
    assert words[words.index("--listen") + 1] == f"0.0.0.0:{host[2]}"


@pytest.mark.slow
@NEEDS_SHARED
def test_the_services_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As the README says; the names of containers are addresses on loopback here."""
    (port,) = processes.ports(1)
    text = (EXAMPLE / "federation.toml").read_text(encoding="utf-8")
    (tmp_path / "federation.toml").write_text(text.replace("server:8443", f"127.0.0.1:{port}"), encoding="utf-8")
    for name in HOSPITALS:
        (tmp_path / "data" / name).mkdir(parents=True)
        file = f"processed.{name}.data"
        shutil.copy(SHARED / "heart_disease" / file, tmp_path / "data" / name / file)
    found = services()
    monkeypatch.chdir(tmp_path)
    assert cli.main(found.pop("provision")["command"]) == 0
    running = {}
    for name, service in found.items():
        folder = tmp_path / "containers" / name
        folder.mkdir(parents=True)
        for there, (host, _) in mounts(service).items():
            (folder / there).symlink_to(tmp_path / host)
        words = [word.replace("0.0.0.0:8443", f"127.0.0.1:{port}") for word in service["command"]]
        running[name] = processes.Process(words, tmp_path / f"{name}.log", folder=folder)
    ended = {name: process.ended() for name, process in running.items()}
    assert {name: end.code for name, end in ended.items()} == dict.fromkeys(ended, 0), ended
    assert "Sums are masked" in ended["va"].said
    rounds = processes.rounds(tmp_path / "kits" / "server" / "runs" / "hearts")
    assert len(rounds) == 3 and len(rounds[-1]["node_accuracy"]) == 4
    assert rounds[-1]["accuracy"] > 0.7
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "containers" / "cleveland")
    assert cli.main(["status", "kit"]) == 0
    assert "fedkfac has ended, round 3 of 3" in capsys.readouterr().out
