"""Flower's own processes on this machine, from an environment of their own: a SuperLink, SuperNodes, `flwr run`."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fedtangent.sites import commands
from tests.sites.processes import ports

pytest.importorskip("cryptography", reason="needs fedtangent[network]")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv-flower" / "bin"
MOST = 300.0  # seconds until a test gives up
_MARK = "FEDTANGENT_TEST"


class Ended(NamedTuple):
    """status: Of the run, as Flower has it. said: By the ServerApp."""

    status: str
    said: str


class Flower:
    """A SuperLink with TLS and node authentication, and the SuperNodes that are started; all end with the context."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._mark = folder, uuid.uuid4().hex
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._configs: dict[str, Mapping[str, Any]] = {}
        (port,) = ports(1)
        self._address = f"127.0.0.1:{port}"

    def __enter__(self) -> Flower:
        certificates(self.folder)
        commands.flower(str(self.folder / "app"))
        (self.folder / "cli").mkdir()
        connection = f'address = "{self._address}"\nroot-certificates = "{self.folder / "ca.pem"}"\n'
        (self.folder / "cli" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\n{connection}'
        )
        tls = [
            word
            for name, file in (("ca-certfile", "ca.pem"), ("certfile", "link.pem"), ("keyfile", "link.key"))
            for word in (f"--ssl-{name}", self.folder / file)
        ]
        host, port = self._address.split(":")
        words = [*tls, "--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        self._start("superlink", ["flower-superlink", *words, "--host", host, "--port", port])
        try:
            self.until("superlink", "startup complete")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self._processes][::-1]:  # the SuperLink last
            self.stop(name)
        left = self.remaining("")
        for number in left:
            with contextlib.suppress(OSError):
                os.kill(number, signal.SIGKILL)
        assert not left

    def node(self, name: str, config: Mapping[str, Any], registered: bool = True) -> subprocess.Popen[bytes]:
        """A SuperNode, of which a new key is registered where that is asked for."""
        self._configs[name] = config
        key = self.folder / f"{name}.key"
        if not key.exists():
            _write_key(key)
            if registered:
                self.flwr("supernode", "register", key.with_suffix(".pub"), "here", "--name", name)
        (port,) = ports(1)
        words = ["--root-certificates", self.folder / "ca.pem", "--superlink", self._address, "--port", port]
        told = " ".join(f"{option}={json.dumps(value)}" for option, value in config.items())
        words += ["--auth-supernode-private-key", key, "--node-config", told]
        return self._start(name, ["flower-supernode", *words])

    def again(self, name: str) -> None:
        """A SuperNode that was killed, as soon as the SuperLink has missed it and lets another with its key in."""
        config = self._configs[name]
        end = time.monotonic() + MOST
        before = self.said(name).count("SuperNode ID")
        process = self.node(name, config)
        while self.said(name).count("SuperNode ID") == before:
            assert time.monotonic() < end, self.said(name)
            if process.poll() is not None:
                process = self.node(name, config)
            time.sleep(0.5)

    def run(self, **config: Any) -> Ended:
        """Starts a run, and waits until it has ended."""
        return self.ended(self.begun(**config))

    def begun(self, **config: Any) -> str:
        """The number of a run that is started."""
        told = " ".join(f"{name}={json.dumps(value)}" for name, value in config.items())
        said = self.flwr("run", self.folder / "app", "here", "--run-config", told, "--format", "json")
        return str(json.loads(said[said.index("{") :])["run-id"])

    def ended(self, number: str) -> Ended:
        """How a run has ended."""
        end = time.monotonic() + MOST
        while not (status := self._status(number)).startswith("finished"):
            assert time.monotonic() < end, self.everything()
            time.sleep(1)
        return Ended(status, self.flwr("log", number, "here", "--show"))

    def flwr(self, *words: Any) -> str:
        """What a word of the command line says."""
        done = subprocess.run(
            [BIN / "flwr", *map(str, words)], env=self._environment("cli"), capture_output=True, text=True, timeout=MOST
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def until(self, name: str, text: str) -> None:
        """Waits until a process says something."""
        end = time.monotonic() + MOST
        while text not in self.said(name):
            assert time.monotonic() < end and self._processes[name].poll() is None, self.everything()
            time.sleep(0.1)

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """Ends a process, and waits for that; a SuperNode that does not end for a minute is killed."""
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def left(self, command: str) -> list[int]:
        """The processes of this federation that are there, whoever has started them."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                of_this = f"{_MARK}={self._mark}\0".encode() in (path / "environ").read_bytes()
                if of_this and command.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return found

    def remaining(self, command: str) -> list[int]:
        """Those that are still there when they had half a minute to end."""
        end = time.monotonic() + 30
        while (left := self.left(command)) and time.monotonic() < end:
            time.sleep(0.2)
        return left

    def everything(self) -> str:
        return "\n".join(f"== {name}\n{self.said(name)}" for name in self._processes)

    def _status(self, number: str) -> str:
        told = json.loads(self.flwr("list", "here", "--run-id", number, "--format", "json"))
        return str(told["runs"][0]["status"])

    def _start(self, name: str, words: list[Any]) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(BIN / words[0]), *map(str, words[1:])],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(name),
            )
        return self._processes[name]

    def _environment(self, name: str) -> dict[str, str]:
        change = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "OMP_NUM_THREADS": "1",
        }
        change |= {
            "FLWR_HOME": str(self.folder / name),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        return {**os.environ, **change, _MARK: self._mark, "PYTHONUNBUFFERED": "1"}


def certificates(folder: Path) -> None:
    """The SuperLink's: ca.pem, link.pem and link.key."""
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "link")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    own = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    begin = datetime.now(UTC) - timedelta(hours=1)
    for name, key, file in zip(names, keys, ("ca.pem", "link.pem"), strict=True):
        made = x509.CertificateBuilder().subject_name(name).issuer_name(names[0]).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(begin)
        made = made.not_valid_after(begin + timedelta(days=2))
        made = made.add_extension(x509.BasicConstraints(ca=key is keys[0], path_length=None), critical=True)
        made = made.add_extension(own, critical=False) if key is keys[1] else made
        shown = made.sign(keys[0], hashes.SHA256())
        (folder / file).write_bytes(shown.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "link.key").write_bytes(keys[1].private_bytes(*form))


def _write_key(path: Path) -> None:
    """A SuperNode's, in the form of `ssh-keygen -t ecdsa -b 384`, which Flower asks for."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*form))
    path.chmod(0o600)
    public = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(*public))
