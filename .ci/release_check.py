"""Builds wheel and source distribution, and tries each in a clean environment of every Python: make release-check.

    .venv/bin/python .ci/release_check.py 3.11 3.12 3.13 /opt/python3.14/bin/python3

A Python is a version, or the path of one. uv brings a version that is not here, where it can reach it. Ends with 1 if
anything failed or could not be tried.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
# What a stranger does first; each ends within a minute.
COMMANDS = [
    ["--version"],
    ["list", "methods"],
    ["run", "fedkfac", "--help"],
    ["run", "fedkfac", "--nodes", "20", "--rounds", "2", "--out", "first run"],
    ["run", "dfedavg", "--nodes", "6", "--degree", "2", "--rounds", "2"],
    ["report", "first run", "runs", "--out", "page.html"],
]
CODE = """
import fedtangent, json, torch
from fedtangent.datasets.digits import digits
from torch import nn
data = digits()
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
result = fedtangent.run("fedkfac", model=model, dataset=data, nodes=20, alpha=0.1, rounds=5)
kernel = fedtangent.tangents.kernel(model, data.x_train[:20])
again = fedtangent.load("first run")
assert result.rounds[-1]["accuracy"] > 0.9 and kernel.shape == (20, 20, 10, 10) and "run" in dir(fedtangent)
print(json.dumps({"torch": torch.__version__, "accuracy": result.rounds[-1]["accuracy"]}))
"""


def built() -> list[Path]:
    """The wheel and the source distribution, of which the wheel is made: so it holds all that a wheel needs."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([UV, "build", "--quiet", "--no-build-isolation", "--python", sys.executable], cwd=ROOT, check=True)
    return sorted(DIST.glob("*.whl")) + sorted(DIST.glob("*.tar.gz"))


def faults(wheel: Path, source: Path) -> list[str]:
    """What is wrong with their contents, and what an index page would not show."""
    found = []
    with zipfile.ZipFile(wheel) as held:
        names = held.namelist()
        metadata = message_from_bytes(held.read(next(name for name in names if name.endswith("METADATA"))))
    with tarfile.open(source) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "SECURITY.md", "hatch_build.py", "pyproject.toml"}
    found += [f"the source distribution lacks {name}" for name in sorted(wanted - files)]
    strange = [name for name in names if not name.startswith(("fedtangent/", "fedtangent-"))]
    found += [f"the wheel holds {name}" for name in strange]
    version = metadata["Version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if f"## [{version}]" not in changes:
        found.append(f"CHANGELOG.md has no heading of {version}")
    if f"\nversion: {version}\n" not in (ROOT / "CITATION.cff").read_text(encoding="utf-8"):
        found.append(f"CITATION.cff is not of {version}")
    relative = re.findall(r"!\[[^\]]*\]\((?!https:)([^)]+)\)", str(metadata.get_payload()))
    for picture in relative:
        print(f"note: an index page will not show {picture}; set urls.Repository in pyproject.toml.")
    return found


def tried(artefact: Path, python: str, folder: Path) -> str:
    """What a new environment with nothing but this says; a sentence about what failed begins with `failed`."""
    environment, work = folder / "environment", folder / "a folder"
    work.mkdir()
    begin = time.monotonic()
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    steps = [
        [UV, "venv", "--quiet", "--python", python, str(environment)],
        [UV, "pip", "install", "--quiet", "--python", str(environment), str(artefact)],
        *([str(environment / "bin/fedtangent"), *words] for words in COMMANDS),
        [str(environment / "bin/python"), "-W", "error", "-c", CODE],
    ]
    for step in steps:
        done = subprocess.run(step, cwd=work, env=variables, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            return f"failed at {' '.join(step[:4])}: {said}"
    told = json.loads(done.stdout.splitlines()[-1])
    return f"passed with PyTorch {told['torch']}, accuracy {told['accuracy']:.3f}, {time.monotonic() - begin:.0f} s"


def interpreter(python: str) -> str | None:
    """The path of a Python, given its version or its path; None where it is not here and uv cannot bring it."""
    find = [UV, "python", "find", "--no-project", python]
    found = subprocess.run(find, capture_output=True, text=True)
    if found.returncode:
        subprocess.run([UV, "python", "install", "--quiet", python], capture_output=True)
        found = subprocess.run(find, capture_output=True, text=True)
    return found.stdout.strip() or None


def main(pythons: list[str]) -> int:
    """The exit code."""
    if UV is None:
        print("release-check: `uv` must be on the PATH; got none. Use make release-check.", file=sys.stderr)
        return 2
    wheel, source = built()
    wrong = faults(wheel, source)
    for artefact in (wheel, source):
        print(f"{artefact.name}: {artefact.stat().st_size:,} bytes", flush=True)
    for fault in wrong:
        print(f"wrong: {fault}")
    failed = bool(wrong)
    for python in pythons:
        found = interpreter(python)
        if found is None:
            failed = True
            print(f"Python {python}: not tried; it is not here, and uv could not bring it", flush=True)
            continue
        version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        for artefact in (wheel, source):
            with tempfile.TemporaryDirectory() as folder:
                said = tried(artefact, found, Path(folder))
            failed |= said.startswith("failed")
            print(f"{version}, {artefact.suffix[1:]}: {said}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
