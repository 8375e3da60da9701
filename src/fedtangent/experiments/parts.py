"""Parts: the kinds of part that an experiment chooses by name, and whose option a name is; needs no PyTorch."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedtangent.experiments.options import Option


class Part(NamedTuple):
    """A kind of part that is chosen by name.

    Attributes:
        folder: Where its names are files.
        options: The experiment's field that holds the options of the chosen one.
        default: What stands for None; without one None leaves the part out.
        required: Whether it is never left out.
    """

    folder: str
    options: str
    default: str | None = None
    required: bool = False


PARTS = {
    "method": Part("methods", "options", required=True),
    "host": Part("methods", "host_options"),  # whose default hangs on the method
    "dataset": Part("datasets", "dataset_options", required=True),
    "augment": Part("augmentations", "augment_options"),
    "model": Part("models", "model_options", required=True),
    "partition": Part("partitions", "partition_options", required=True),
    "topology": Part("topologies", "topology_options", default="regular"),
    "channel": Part("channels", "channel_options"),
    "fault": Part("faults", "fault_options"),
    "attack": Part("attacks", "attack_options"),
    "rule": Part("rules", "rule_options"),
}
CHAINS = {"channel": "chain", "fault": "faulty"}  # of which there may be several: the function in chain.py
# The settings that say more of a schedule of learning rates, their values where nothing is said, and which schedule's.
OF_SCHEDULE = {
    "lr_rounds": (None, "cosine"),
    "lr_least": (0.0, "cosine"),
    "lr_every": (10, "step"),
    "lr_gamma": (0.1, "step"),
}
# Of an experiment, what only methods that take local steps on batches can use.
LOCAL_STEPS = ("lr_schedule", "lr_warm_up", *OF_SCHEDULE, "clip", "local_weight_decay", "amp")
DEFAULT_NODES, DEFAULT_HOST = 20, "fedavg"
ALIKE = "named_alike"  # in a manifest: parts of one's own that have the name of one of the package's


def found(
    options_of: Callable[[str, Any], Mapping[str, Option]], fields: Mapping[str, Option], chosen: Mapping[str, Any]
) -> dict[str, list[tuple[str, Option]]]:
    """The options of the chosen parts by `name` and by `part.name`, and whose each is.

    Args:
        options_of: Gives the options of a part from its kind and what was chosen for it, None for nothing.
        fields: The experiment's own settings, whose names come first.
        chosen: What was chosen, by part; the experiment's default where a part is missing.
    """
    known: dict[str, list[tuple[str, Option]]] = {}
    for part in PARTS:
        for option in options_of(part, chosen[part] if part in chosen else fields[part].default).values():
            if part == "method" and is_host(option):
                continue  # a part of its own
            known.setdefault(f"{part}.{option.name}", []).append((part, option))
            if option.name not in fields:
                known.setdefault(option.name, []).append((part, option))
    return known


def is_host(option: Option | None) -> bool:
    """Whether a method's option is the host that it runs around, still to be chosen."""
    return option is not None and option.name == "host" and option.default is None


def shared(name: str, owners: list[tuple[str, Option]]) -> str:
    """The sentence about an option that several chosen parts have."""
    full = " or ".join(f"{part}.{name}" for part, _ in owners)
    return f"`{name}` must say which part it is for; got it alone. Write {full}."
