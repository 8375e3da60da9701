"""Engine protocol, context scopes, and errors that name the failing node."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, Protocol

from torch import Tensor

from fedtangent import trees
from fedtangent.errors import SettingError


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


@contextmanager
def unwritten(fn: Callable[..., Any], rows: Sequence[Sequence[Any]], method: str, round: int) -> Iterator[None]:
    """Inside, a function that is no part of the package is called with these arguments.

    What one node writes to in place is what the others are given, too, where they are computed in one process.

    Raises:
        ValueError: It has written to a tensor that it was given.
    """
    own = not str(getattr(getattr(fn, "func", fn), "__module__", "")).startswith("fedtangent.")
    given = [leaf for leaf in trees.leaves(rows) if isinstance(leaf, Tensor) and not leaf.is_inference()] if own else []
    versions = [leaf._version for leaf in given]
    yield
    for leaf, version in zip(given, versions, strict=True):
        if leaf._version != version:
            raise SettingError(
                f"`{_name(fn)}` must not write to what it is given; got a tensor "
                f"{tuple(leaf.shape)} changed in place in round {round} of {method or 'a method'}. Others hold it "
                "too: return a new one, such as w * 2 in place of w.mul_(2)."
            )


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
    if "random operation" in str(error):
        hint = ". Draw with fleet.draw, and give it what was drawn"
    shapes = [tuple(leaf.shape) for leaf in trees.leaves(failing) if isinstance(leaf, Tensor)]
    return NodeError(
        f"{culprit} failed in {_name(fn)!r} of {method or 'a method'}, round {round}: "
        f"{type(error).__name__}: {error} (argument shapes {shapes}){hint}"
    )


def _name(fn: Any) -> str:
    bare = getattr(fn, "func", fn)  # of a partial
    return str(getattr(bare, "__name__", type(bare).__name__))
