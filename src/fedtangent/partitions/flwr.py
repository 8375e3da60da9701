"""flwr: any partitioner of flwr-datasets that deals out rows, by its name and its own arguments.

Beutel et al. Flower: A Friendly Federated Learning Research Framework. 2020. arXiv 2007.14390.
"""

import ast
import inspect
import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from typing import Any

import numpy as np
from torch import Tensor

from fedtangent.errors import SettingError
from fedtangent.extras import imported
from fedtangent.shard import Partition

_ROW, _LABEL, _SITE = "row", "label", "site"


def flwr(
    x: Tensor,
    y: Tensor,
    nodes: int | None,
    rng: np.random.Generator,
    site: Tensor | None,
    *,
    partitioner: str,
    arguments: str | Mapping[str, Any] = "",
) -> Partition:
    """The rows as a partitioner of flwr-datasets deals them out.

    It is given a data set of the columns row, label and site. `partition_by` is label, or site for those by natural
    ids; `num_partitions` is the number of nodes, and `seed` is drawn from the run's, unless the arguments tell them.

    Args:
        x: Inputs, (rows, *inputs); only their number is used.
        y: Labels, or targets of which there is one a row.
        nodes: Number of nodes; none is as many as the partitioner makes.
        rng: Draws the partitioner's seed.
        site: The data set's `site_train`; None where it has none.
        partitioner: A class of flwr_datasets.partitioner, such as DirichletPartitioner.
        arguments: Its arguments as Python writes them, such as "alpha=0.3, min_partition_size=5".

    Raises:
        ValueError: flwr-datasets is not installed or has no such partitioner, or that takes no such arguments or data.
    """
    made = _class(partitioner)
    known = inspect.signature(made.__init__).parameters
    given = dict(arguments) if isinstance(arguments, Mapping) else _arguments(arguments)
    for name in given:
        if name not in known or name == "self":
            names = ", ".join(key for key in known if key != "self")
            raise SettingError(f"`arguments` must be those of {partitioner}, {names}; got {name!r}. Choose among them.")
    defaults = {
        "partition_by": _SITE if "NaturalId" in partitioner else _LABEL,
        "num_partitions": nodes,
        "seed": int(rng.integers(2**31)),
    }
    given = {name: value for name, value in defaults.items() if name in known} | given
    if given.get("num_partitions", 1) is None:
        raise SettingError(f"`nodes` must be given for {partitioner}, which makes as many as it is told; got none.")
    rows = _dealt(partitioner, made, given, _table(len(x), y, site))
    if nodes is not None and len(rows) != nodes:
        raise SettingError(
            f"`nodes` must be the number that {partitioner} makes, {len(rows)}; got {nodes}. Leave it out, or change "
            "the arguments."
        )
    return Partition(rows)


def _class(name: str) -> Any:
    module = imported("flwr_datasets.partitioner", "flwr", "for the partition flwr")
    names = [
        each for each in sorted(module.__all__) if each != "Partitioner" and not each.startswith("Vertical")
    ]  # of which the latter deal out columns
    if name not in names:
        raise SettingError(f"`partitioner` must be one of {', '.join(names)}; got {name!r}. Choose one.")
    return getattr(module, name)


def _arguments(text: str) -> dict[str, Any]:
    """The values of arguments as Python writes them; only plain ones, and nothing is run."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("a value without a name")
        return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise SettingError(
            f'`arguments` must be plain values by name; got {text[:80]!r}. Write them as in "alpha=0.3, seed=7".'
        ) from error


def _table(rows: int, y: Tensor, site: Tensor | None) -> Any:
    """The rows' numbers, labels and sites as a datasets.Dataset."""
    columns: dict[str, Any] = {_ROW: np.arange(rows)}
    if y.ndim == 1 or y.shape[1] == 1:
        columns[_LABEL] = y.flatten().cpu().numpy()
    if site is not None:
        columns[_SITE] = site.cpu().numpy()
    return imported("datasets", "flwr", "for the partition flwr").Dataset.from_dict(columns)


def _dealt(name: str, made: Any, given: Mapping[str, Any], table: Any) -> list[np.ndarray]:
    """The rows' numbers of every partition."""
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # where it draws bars of its progress
            for kind in (DeprecationWarning, FutureWarning):  # of its own use of other libraries
                warnings.simplefilter("ignore", kind)
            dealer = made(**given)
            dealer.dataset = table
            return [
                np.asarray(dealer.load_partition(node).with_format("numpy")[_ROW][:], dtype=np.int64)
                for node in range(dealer.num_partitions)
            ]
    except Exception as error:  # of whatever kind its author has chosen
        told = " ".join(str(error).split())[:200].rstrip(".")
        raise SettingError(
            f"`partitioner` must be able to deal out these rows; got from {name}: {type(error).__name__}: {told}. "
            "Change its arguments."
        ) from error
