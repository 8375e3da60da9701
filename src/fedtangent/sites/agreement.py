"""Agreement: all processes of a federation build the same run, each on its own rows, before round 1."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fedtangent.datasets._scale import PIXELS, alike
from fedtangent.errors import SettingError, UserError
from fedtangent.experiments import record
from fedtangent.experiments.experiment import Experiment
from fedtangent.experiments.same import short
from fedtangent.experiments.setup import Setup, setup
from fedtangent.experiments.share import Share, completed, joined, profile
from fedtangent.federation import SERVER, Transport
from fedtangent.shard import Dataset
from fedtangent.sites import kept_files, signatures
from fedtangent.sites.kit import Kit, check_consent
from fedtangent.sites.plan import Plan, code
from fedtangent.sites.secrets import Drawn
from fedtangent.sites.standardise import digest, measured, passed_on, standardised
from fedtangent.transports._lines import Lines
from fedtangent.transports._masks import Masks
from fedtangent.transports.network import everybody, network

_COMPARED = ("experiment", "sources", "fingerprint", "exposure", "parameters")
_ROWS = 2**40
AGREED = ".agreed.json"  # beside a record: the plan with everybody's signatures


class Kept:
    """What a process keeps of a run from one sitting to the next.

    Attributes:
        profiles: What every site has told of its data when the run began, by name; None before.
        scale: Mean and deviation of all features; None where they are not standardised.
        built: This process's setup.
        signed: What all have agreed on, and the signatures of those that are present.
    """

    def __init__(self) -> None:
        self.profiles: dict[str, Any] | None = None
        self.scale: list[float] | None = None
        self.built: Setup | None = None
        self.signed: dict[str, Any] = {}


def agreed(
    own: Kit,
    lines: Lines,
    plan: Plan,
    dataset: Dataset | None,
    kept: Kept,
    sending: Callable[[], None],
    device: str = "cpu",
) -> Setup:
    """This process's setup of a plan, as soon as every process has one, and the same.

    Args:
        own: Its kit.
        lines: To the others that are present, the leader first.
        plan: Proposed by the leader.
        dataset: The site's own rows; None for a server.
        kept: From the sitting before; it is filled.
        sending: Called before every part of a masked sum leaves.
        device: Where this process computes.

    Raises:
        ValueError: A site has none, or another one, or does not consent; the same sentence at every site.
    """
    drawn = Drawn(own, lines.run) if plan.secure_sums and dataset is not None else None
    told = {"code": code(), "profile": None if dataset is None else profile(dataset, _secret(own))}
    told["secret"] = None if drawn is None else drawn.told()
    names = [lines.name(place) for place in range(lines.count)]
    everyone = dict(zip(names, everybody(lines, 1, told), strict=True))
    try:
        profiles = _profiles(own, everyone, plan.profiles)
        common = joined(profiles)
    except SettingError as error:  # at all, who have been told the same; nobody ends before all have its sentence
        lines.parting = True
        _check(names, everybody(lines, 2, {"error": str(error)}))
        raise
    begun = plan.profiles is not None
    scale = None
    pixels = str(common["schema"]).startswith(PIXELS)
    if plan.standardise or pixels:
        form = _features(common)
        form = form if plan.standardise else alike(form)
        scale = passed_on(lines, kept.scale, form) if begun else measured(lines, dataset, form)
    try:
        masks = None
        if plan.secure_sums:
            others = {name: one["secret"] for name, one in everyone.items() if name in own.sites}
            shared = {} if drawn is None else drawn.shared(others)
            secrets = {own.sites.index(name): secret for name, secret in shared.items()}
            masks = Masks(lines.run, secrets, sending)
        if kept.built is None:
            kept.built = _built(own, plan, dataset, profiles, common, scale, device)
        if dataset is not None:
            check_consent(own, kept.built.method.exposure)
        manifest = record.manifest(kept.built)
        mine = {name: manifest[name] for name in _COMPARED}
        mine["experiment"] = {name: value for name, value in mine["experiment"].items() if name != "device"}
        mine["versions"] = {name: manifest["versions"][name] for name in ("torch", "numpy")}
    except Exception as error:
        mine = {"error": str(error) if isinstance(error, (UserError, OSError)) else f"{type(error).__name__}: {error}"}
    lines.parting = True  # whoever hears of another's error first ends, while some have yet to hear of it
    _check(names, everybody(lines, 2, mine))
    lines.parting = False
    assert kept.built is not None
    kept.profiles, kept.scale = profiles, None if scale is None else scale.reshape(-1).tolist()
    kept.signed = _signed(own, lines, names, _terms(own, plan, profiles, mine))
    lines.limit, lines.device = limit(kept.built), device
    places = {node: names.index(site) for node, site in enumerate(own.sites) if site in names}
    return present(kept.built, network(lines, places, masks), tuple(places), plan.quorum < 1)


def _terms(own: Kit, plan: Plan, profiles: Mapping[str, Any], built: Mapping[str, Any]) -> dict[str, Any]:
    """What every process agrees to: whose run of what, on whose data, by which code, at which exposure."""
    how = {name: getattr(plan, name) for name in ("record", "patience", "standardise", "secure_sums", "quorum")}
    terms = {"federation": own.federation, "processes": list(own.book), **how, "settings": plan.settings}
    return _plain({**terms, "code": code(), "data": profiles, **built})  # type: ignore[no-any-return]


def _signed(own: Kit, lines: Lines, names: Sequence[str], terms: dict[str, Any]) -> dict[str, Any]:
    """The terms with the signatures of all that are present, each of which is checked."""
    text = _text(terms)
    told = dict(zip(names, everybody(lines, 4, signatures.signed(own, text)), strict=True))
    for name, one in told.items():
        signatures.check(own, name, text, one, "the plan")
    return {"terms": terms, "signatures": told}


def signers(own: Kit, folder: Path) -> list[str] | None:
    """Who has signed the plan of a record; None where it has none that all have signed.

    Raises:
        ValueError: The plan, or a signature, is not what was signed.
    """
    told = kept_files.read(folder / AGREED, lambda told: (_text(dict(told["terms"])), dict(told["signatures"])))
    if told is None:
        return None
    text, found = told
    for name, one in found.items():
        signatures.check(own, name, text, one, "the plan", kept=True)
    return list(found)


def _text(terms: Mapping[str, Any]) -> bytes:
    """What is signed."""
    return b"fedtangent plan 1\0" + json.dumps(terms, sort_keys=True).encode()


def present(built: Setup, transport: Transport, nodes: tuple[int, ...], counted: bool) -> Setup:
    """The setup of a sitting of these nodes.

    Args:
        built: With all nodes.
        transport: Between those that are present.
        nodes: Who is.
        counted: Whether it may be fewer than all, so that the record says how many.
    """
    assert built.share is not None
    return replace(built, transport=transport, share=built.share._replace(present=nodes, counted=counted))


def _profiles(own: Kit, told: Mapping[str, Any], before: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """What the sites tell of their data, in the order of the nodes; of those that are absent, what they told before."""
    for name, one in told.items():
        if not isinstance(one, dict) or {*one} != {"code", "profile", "secret"}:
            raise SettingError(f"`{name}` must tell code and data; got something else. Run the same code at all sites.")
        if one["code"] != told[own.name]["code"]:
            raise SettingError(
                f"`{name}` must run the same code as {own.name}; got another digest of the package. Install the same "
                "version of fedtangent at all sites."
            )
    found = {}
    for name in own.sites:
        known = None if before is None else before.get(name)
        one = told[name]["profile"] if name in told else known
        if not isinstance(one, dict) or not all(
            isinstance(one.get(count), int) and 0 < one[count] < _ROWS for count in ("rows", "test_rows")
        ):
            raise SettingError(f"`{name}` must have training and test rows; got none. Give its --data-dir.")
        if known is not None and _plain(one) != _plain(known):
            raise SettingError(
                f"`{name}` must go on with the data that it began with; got others. Give the same, or begin anew."
            )
        found[name] = one
    return found


def _plain(told: Any) -> Any:
    """As it is after a journey through JSON."""
    return json.loads(json.dumps(told))


def _features(common: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a row of inputs that are one tensor."""
    form = common["inputs"]
    if not isinstance(form, list):
        raise SettingError("`standardise` must be left out for inputs that are several tensors; got it. Drop it.")
    return tuple(form[1:])


def _built(
    own: Kit,
    plan: Plan,
    dataset: Dataset | None,
    profiles: Mapping[str, Any],
    common: Mapping[str, Any],
    scale: Tensor | None,
    device: str,
) -> Setup:
    """The setup of a run, with all nodes, before anybody is joined."""
    digests = tuple(str(one["digest"]) for one in profiles.values())
    digests += ("secure sums",) if plan.secure_sums else ()
    if scale is not None:
        digests += (digest(scale),)
        dataset = None if dataset is None else standardised(dataset, scale)
    rows, test_rows = (tuple(one[count] for one in profiles.values()) for count in ("rows", "test_rows"))
    share = Share(own.sites.index(own.name) if own.name in own.sites else None, rows, test_rows, digests)
    data = completed(own.federation, dataset, common)
    asked = Experiment(**plan.settings, dataset=data, partition=share.partition, engine="sequential", device=device)
    built = setup(asked, share=share)
    if built.method.traits.neighbours == own.served:
        has = "without a server" if own.served else "with a server"
        raise SettingError(
            f"`METHOD` must be one {'with' if own.served else 'without'} a server in this federation; got "
            f"{built.method.name}, which is {has}. Choose another, or provision a federation for it."
        )
    return built


def limit(built: Setup) -> int:
    """Bytes that a message of a run may have: a few times what a node's work takes, and some for a record's sake."""
    return 2**26 + 4 * max(built.node_bytes(built.graph(1)).values())


def _check(names: Sequence[str], told: Sequence[Any]) -> None:
    """Raises one sentence where a process has no setup, or another than the leader."""
    errors = [(name, str(one["error"])) for name, one in zip(names, told, strict=True) if "error" in one]
    if errors:
        (name, first), *_ = errors
        raise SettingError(first if len(errors) == len(told) else unable(name, first))
    for name, one in zip(names[1:], told[1:], strict=True):
        for what in (*_COMPARED, "versions"):
            if one.get(what) != told[0].get(what):
                which, theirs, other = _different(what, told[0].get(what), one.get(what))
                raise SettingError(
                    f"`{which}` must be the same at every site; got {short(theirs)} at {names[0]} and {short(other)} "
                    f"at {name}. Install the same versions, and give the same plan."
                )


def unable(name: str, why: str) -> str:
    """What all are told of a process that cannot take part."""
    return f"`{name}` must be able to run this; got there: {why}"


def _different(name: str, first: Any, other: Any) -> tuple[str, Any, Any]:
    """The first part in which two values differ."""
    if isinstance(first, dict) and isinstance(other, dict):
        for key in {**first, **other}:
            if first.get(key) != other.get(key):
                return _different(str(key), first.get(key), other.get(key))
    return name, first, other


def _secret(own: Kit) -> bytes:
    """What only this site has."""
    return own.identity.key.read_bytes()


def sends(built: Setup, own: Kit) -> str:
    """To whom a site sends what it sends, in words."""
    if not built.method.traits.neighbours:
        return "to the server" if own.name in own.sites else "to every site"
    graph = built.graph(1)
    assert graph is not None
    near = [own.sites[node] for node in graph.receivers(own.sites.index(own.name))]
    later = "" if built.experiment.static else ", and to others as the graph of a round has it"
    record = "" if built.transport.here(SERVER) else " For the record it sends its weights and counts of right answers."
    return f"to {', '.join(near) or 'nobody'} in round 1{later}.{record}"
