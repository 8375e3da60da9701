"""The way in: Ctrl-C ends the command in one word while it still imports, and is the command's own from then on."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedtangent.experiments.launch import LAUNCHED

STUB = """
import os, signal, sys, types
import fedtangent.__main__ as way_in

sys.argv = ["fedtangent", "run"]

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "fedtangent.cli":
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10**6):  # where a handler of Python's has time to run
                pass
            sys.modules[name] = types.SimpleNamespace(main=lambda: 7)
            raise ImportError("swallowed the exception that Ctrl-C is") if {swallows} else SystemExit(9)

sys.meta_path.insert(0, Slow())
try:
    way_in.main()
except ImportError:
    sys.exit(1)
"""


@pytest.mark.parametrize("swallows", [True, False])
def test_ctrl_c_during_the_imports(swallows: bool) -> None:
    """Whatever an import makes of an exception: there is none."""
    code = STUB.replace("{swallows}", str(swallows))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "fedtangent: stopped.\n")


ENDS = """
import signal, sys, types
sys.modules["fedtangent.cli"] = types.SimpleNamespace(main=lambda: print(signal.getsignal(signal.SIGINT)) or 7)
sys.argv = ["fedtangent", "run"]
{before}
import fedtangent.__main__ as way_in
print(way_in.main(), signal.getsignal(signal.SIGINT))
"""


@pytest.mark.parametrize(
    ("before", "during", "after"),
    [
        ("", "<built-in function default_int_handler>", "_stop"),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "Handlers.SIG_IGN", "Handlers.SIG_IGN"),
        (
            f"import os; os.environ['{LAUNCHED}'] = '1'; signal.signal(signal.SIGINT, signal.SIG_IGN)",
            "<built-in function default_int_handler>",
            "_stop",
        ),
    ],
)
def test_the_command_has_its_own_way_with_ctrl_c(before: str, during: str, after: str) -> None:
    """Of a command in the background, which does not hear it, no more than before; ranks hear what launched them."""
    code = ENDS.replace("{before}", before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == during or str(first) == during.replace("Handlers.SIG_IGN", "1")
    assert second.startswith("7 ") and (after in second or second == "7 1")


@pytest.mark.parametrize("words", [["run", "fedavgg"], ["check", "fedavgg", "--nodes", "3"], ["list", "methodz"]])
def test_a_name_that_is_none_is_refused_without_pytorch(words: list[str]) -> None:
    code = f"import sys; sys.modules['torch'] = None; sys.argv[1:] = {words}\n"
    code += "import fedtangent.__main__ as way_in\nsys.exit(way_in.main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fedtangent: `meth") and done.stderr.count("\n") == 1


def shell(script: str, folder: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_streams_that_are_closed(tmp_path: Path) -> None:
    code = 'import os, fedtangent.front as f; f.legible(); print("out"); os.write(1, b"x"); os.write(2, b"y")'
    code += '; file = open("file", "w"); assert file.fileno() > 2'
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"):
        assert shell(f"\"$1\" -c '{code}' {closed}", tmp_path)[0] == 0, closed
    assert shell('"$1" -m fedtangent list >&-', tmp_path) == (0, "", "")
    assert shell('"$1" -m fedtangent run ntkdlf 2>&-', tmp_path) == (2, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_below_the_output(tmp_path: Path) -> None:
    message = (
        "fedtangent: the system must allow what is asked for; got: No space left on device. Free some room, or go "
    )
    code, _, error = shell('"$1" -m fedtangent list > /dev/full', tmp_path)
    assert (code, error) == (2, f"{message}elsewhere.\n")
    code, out, _ = shell('"$1" -m fedtangent run fedavg --nodes 3 --rounds 1 --out none 2> /dev/full', tmp_path)
    assert code == 0 and "fedavg" in out  # only what is told beside the result is lost
    assert shell('"$1" -m fedtangent run ntkdlf 2> /dev/full', tmp_path)[0] == 2


def test_a_reader_of_the_errors_that_has_gone(tmp_path: Path) -> None:
    script = 'exec 3>&1; { "$1" -m fedtangent report absent 2>&1 >&3; echo $? >&3; } | true'
    for words in ("report absent", "run ntkdlf"):
        code, out, error = shell(script.replace("report absent", words), tmp_path)
        assert (code, out, error) == (0, "141\n", ""), words


@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no folder that somebody is in")
def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    for words in ("run fedavg", "report runs"):
        code, _, error = shell(f'mkdir gone; cd gone; rmdir ../gone; "$1" -m fedtangent {words}', tmp_path)
        assert code == 2 and error.startswith("fedtangent: the system must allow what is asked for; got: No such file")
