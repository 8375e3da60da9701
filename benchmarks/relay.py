"""100 MB, and a small message with its answer, from one process to another: directly, and by a relay, a third process.

    python benchmarks/relay.py [--megabytes 100] [--repeats 7]

Both by the package's own lines over mutual TLS 1.3 on loopback; medians. The two ways alternate.
"""

import argparse
import multiprocessing
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch

from fedtangent.federation.transport import Tag
from fedtangent.sites.kit import Kit, kit
from fedtangent.sites.provision import provision
from fedtangent.transports._lines import Lines
from fedtangent.transports._relay import ByRelay, Relay, Waiting
from fedtangent.transports._tls import Address, Listener, reached

SMALL = 200  # messages there and back
RUN = bytes(range(16))


def free() -> int:
    """A port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def relay(folder: str) -> None:
    """The process between."""
    own = kit(f"{folder}/relay", relay=True)
    assert own.relay is not None
    Relay(own.identity, own.relay, own.book, lambda _: None).run()


def answers(folder: str, relayed: bool, repeats: int, size: int) -> None:
    """The process that is called: takes what is large, answers what is small."""
    own = kit(f"{folder}/berlin")
    listener = Listener(own.identity, _door(own, relayed), ["paris"], print)
    while "paris" not in listener.came():
        time.sleep(0.01)
    lines = _lines(0, 1, listener.came()["paris"], size)
    for verb in range(repeats):
        lines.swap(Tag(2 * verb), {}, [1])
        lines.swap(Tag(2 * verb + 1), {1: [0]}, [])
    for verb in range(2 * repeats, 2 * repeats + SMALL):
        lines.swap(Tag(verb), {}, [1])
        lines.swap(Tag(verb), {1: [0]}, [])


def measured(folder: str, relayed: bool, repeats: int, size: int) -> tuple[list[float], float]:
    """Seconds of every large message until its answer, and of a small one."""
    process = multiprocessing.Process(target=answers, args=(folder, relayed, repeats, size))
    process.start()
    own, until = kit(f"{folder}/paris"), time.monotonic() + 20
    way = ByRelay(own.identity, "berlin", own.relay) if relayed and own.relay is not None else _address(own)
    lines = _lines(1, 0, reached(own.identity, "berlin", way, until), size)
    numbers, taken = torch.rand(size // 4), []
    for verb in range(repeats):
        begun = time.perf_counter()
        lines.swap(Tag(2 * verb), {0: [numbers]}, [])
        lines.swap(Tag(2 * verb + 1), {}, [0])
        taken.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    for verb in range(2 * repeats, 2 * repeats + SMALL):
        lines.swap(Tag(verb), {0: [0]}, [])
        lines.swap(Tag(verb), {}, [0])
    small = (time.perf_counter() - begun) / SMALL
    process.join()
    return taken, small


def _door(own: Kit, relayed: bool) -> Address | Waiting:
    return Waiting(own.identity, own.relay, print) if relayed and own.relay is not None else _address(own)


def _address(own: Kit) -> Address:
    return Address("127.0.0.1", int((own.folder.parent / "port").read_text()))


def _lines(own: int, other: int, connection: object, size: int) -> Lines:
    lines = Lines(own, ["berlin", "paris"], {other: connection})  # type: ignore[dict-item]
    lines.run, lines.limit = RUN, 2 * size
    return lines


def main() -> None:
    """Prints a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        text = f'name = "relay"\n[relay]\naddress = "127.0.0.1:{free()}"\n[sites.berlin]\n[sites.paris]\n'
        Path(folder, "federation.toml").write_text(text)
        kits = f"{folder}/kits"
        provision(f"{folder}/federation.toml", kits)
        Path(kits, "port").write_text(str(free()))
        between = multiprocessing.Process(target=relay, args=(kits,), daemon=True)
        between.start()
        large: dict[bool, list[float]] = {False: [], True: []}
        small: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(3):
            for relayed in (False, True):
                taken, one = measured(kits, relayed, asked.repeats, asked.megabytes * 10**6)
                large[relayed] += taken
                small[relayed].append(one)
        between.terminate()
    for relayed in (False, True):
        seconds, milliseconds = statistics.median(large[relayed]), 1000 * statistics.median(small[relayed])
        name = "by a relay" if relayed else "directly"
        print(
            f"{name:12}{asked.megabytes} MB in {seconds:.2f} s, a small message and its answer in {milliseconds:.2f} ms"
        )


if __name__ == "__main__":
    main()
