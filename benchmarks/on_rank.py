"""The command line as one rank of a run, or as all of it, which leaves its CPU seconds of every round in a folder.

    python benchmarks/on_rank.py FOLDER run fedavg ...

`benchmarks/ranks.py` starts it, under torchrun where there are several.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from fedtangent import cli
from fedtangent.experiments.setup import Setup

taken: list[float] = []
play = Setup.play


def timed(*given: Any) -> Any:
    """`Setup.play`, a round without its evaluation."""
    begin = time.process_time()
    found = play(*given)
    taken.append(time.process_time() - begin)
    return found


if __name__ == "__main__":
    Setup.play = timed  # type: ignore[method-assign]
    code = cli.main(sys.argv[2:])
    Path(sys.argv[1], f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(taken))
    sys.stdout.flush()
    os._exit(code)
