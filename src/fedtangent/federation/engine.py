"""Engine protocol, context scopes, and errors that name the failing node."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Protocol

from torch import Tensor

from fedtangent import trees


class NodeError(RuntimeError):
    """A node failed; the message names round, node and method."""


class Engine(Protocol):
    """A way to run a function on many nodes; it knows no method and sends nothing."""

    name: str
    one_by_one: bool  # whether a call computes nodes one after the other, so that it may be given any number of them

    def chunks(self, nodes: Sequence[int], node_bytes: Mapping[int, int]) -> list[list[int]]:
        """The nodes, split into groups to be computed together: a pure function of the arguments."""
        ...

    def call(self, fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
        """fn(*row) for every row, without padding in the results."""
        ...


def inside(scope: Callable[[Any], AbstractContextManager[Any]], fn: Callable[..., Any]) -> Callable[..., Any]:
    """(x, *row) -> fn(*row), run inside the context scope(x)."""

    @wraps(fn)
    def scoped(x: Any, *row: Any) -> Any:
        with scope(x):
            return fn(*row)

    return scoped


def blamed(
    fn: Any, nodes: Sequence[int], rows: list[tuple[Any, ...]], error: Exception, method: str, round: int
) -> NodeError:
    """Finds the failing node by running the rows one by one."""
    suspects = sorted(set(nodes))
    several = str(suspects) if len(suspects) < 10 else f"{suspects[0]} to {suspects[-1]}"
    culprit, failing = f"one of nodes {several}" if len(suspects) > 1 else f"node {suspects[0]}", rows[0]
    hint = ". None of them fails alone: use the engine sequential" if len(rows) > 1 else ""
    for node, row in zip(nodes, rows, strict=True):
        try:
            fn(*row)
        except Exception as failure:
            culprit, failing, error, hint = f"node {node}", row, failure, ""
            break
    bare = getattr(fn, "func", fn)  # of a partial
    stage = getattr(bare, "__name__", type(bare).__name__)
    shapes = [tuple(leaf.shape) for leaf in trees.leaves(failing) if isinstance(leaf, Tensor)]
    return NodeError(
        f"{culprit} failed in {stage!r} of {method or 'a method'}, round {round}: "
        f"{type(error).__name__}: {error} (argument shapes {shapes}){hint}"
    )
