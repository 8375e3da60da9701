"""The commands of a real federation: provision, revoke, server, site, start, relay, status and flower."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from fedtangent import __version__
from fedtangent.errors import SettingError
from fedtangent.experiments import launch
from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.experiments.run import Result
from fedtangent.parsers import LOCAL
from fedtangent.reports import measures, records
from fedtangent.reports.console import Console
from fedtangent.shard import Dataset
from fedtangent.sites import session
from fedtangent.sites.in_use import in_use

WAIT, PATIENCE = 300.0, 3600.0


def provision(federation: str, *, out: str = "kits") -> int:
    """Make a federation's authority, and a kit for every site, of a .toml file.

    Args:
        federation: The file.
        out: A new folder for the kits.
    """
    _check_extra()
    from fedtangent.sites.provision import provision as written

    names = written(federation, out)
    print(f"Written to {out}: the kits of {', '.join(names)}. Bring each to its machine by a safe way.")
    print(f"{out}/authority holds the key that makes kits: keep it to yourself, and offline.")
    return 0


def revoke(kits: str, site: str) -> int:
    """Make a site's certificate count no more, such as that of a machine that was lost.

    Args:
        kits: The folder that `provision` wrote.
        site: The site's name.
    """
    _check_extra()
    from fedtangent.sites.provision import revoke as revoked

    found = revoked(kits, site)
    print(f"Written to {', '.join(map(str, found))}. Bring each revoked.pem to its site, into the kit there.")
    return 0


def server(
    settings: dict[str, Any],
    kit: str,
    *,
    out: str | None = None,
    resume: bool = False,
    standardise: bool = False,
    secure_sums: bool = False,
    wait: float = WAIT,
    patience: float = PATIENCE,
    listen: str | None = None,
    track: tuple[str, ...] = (),
    quorum: float = 1.0,
    deadline: float | None = None,
) -> int:
    """Run a method with the sites that call this server, and record and print what it comes to.

    Args:
        settings: Of the experiment.
        kit: The folder of the server's kit.
        out: The folder for the record; none records nothing.
        resume: Go on with the run in the folder, to the same record.
        standardise: Scale features by their mean and deviation over all sites, from sums that each sends the leader.
        secure_sums: Mask each site's part of a sum, so that its receiver sees the sum alone.
        wait: Seconds in which all sites must be there.
        patience: Seconds in which something must come of a site that is waited for.
        listen: Where to listen, such as 0.0.0.0:8443; none is the address in the kit.
        track: Give settings, rounds, model and page to trackers, such as mlflow.
        quorum: The share of the sites with which a round is played when one that is lost is not back by the deadline.
        deadline: Seconds in which a site that is lost must be back; none is as --wait.
    """
    _check_extra()
    return _led(
        kit,
        experiment(**settings),
        None,
        out,
        resume=resume,
        standardise=standardise,
        secure_sums=secure_sums,
        wait=wait,
        patience=patience,
        listen=listen,
        track=track,
        quorum=quorum,
        deadline=deadline,
    )


def start(
    settings: dict[str, Any],
    kit: str,
    *,
    out: str | None = None,
    resume: bool = False,
    standardise: bool = False,
    secure_sums: bool = False,
    wait: float = WAIT,
    patience: float = PATIENCE,
    listen: str | None = None,
    track: tuple[str, ...] = (),
    quorum: float = 1.0,
    deadline: float | None = None,
) -> int:
    """Run a method among sites without a server, this one being one of them, and record what it comes to.

    Args:
        settings: Of the experiment, with the data set of this site.
        kit: The folder of this site's kit.
        out: The folder for the record; none records nothing.
        resume: Go on with the run in the folder, to the same record.
        standardise: Scale features by their mean and deviation over all sites, from sums that each sends the leader.
        secure_sums: Mask each site's part of a sum, so that its receiver sees the sum alone.
        wait: Seconds in which all sites must be there.
        patience: Seconds in which something must come of a site that is waited for.
        listen: Where to listen, such as 0.0.0.0:8443; none is the address in the kit.
        track: Give settings, rounds, model and page to trackers, such as mlflow.
        quorum: The share of the sites with which a round is played when one that is lost is not back by the deadline.
        deadline: Seconds in which a site that is lost must be back; none is as --wait.
    """
    _check_extra()
    asked = experiment(**settings)
    dataset = session.asked_rows(kit, {name: getattr(asked, name) for name in LOCAL}, listen)
    return _led(
        kit,
        asked,
        dataset,
        out,
        resume=resume,
        standardise=standardise,
        secure_sums=secure_sums,
        wait=wait,
        patience=patience,
        listen=listen,
        track=track,
        quorum=quorum,
        deadline=deadline,
    )


def site(
    settings: Mapping[str, Any],
    kit: str,
    *,
    wait: float = WAIT,
    listen: str | None = None,
    state: str | None = None,
) -> int:
    """Take part in a run that the server, or another site, starts; the rows stay here.

    Args:
        settings: dataset, data_dir, the data set's options, and device.
        kit: The folder of this site's kit.
        wait: Seconds in which somebody must be there, and in which a server, or a site that leads, must be back.
        listen: Where to listen, such as 0.0.0.0:8443; none is the address in the kit.
        state: The folder for what this site keeps of runs, to go on from; none is one in the kit.
    """
    _check_extra()
    with in_use(kit, state):
        result = session.join(
            kit,
            session.asked_rows(kit, settings, listen),
            wait=wait,
            listen=listen,
            state=state,
            device=settings.get("device", "cpu"),
        )
    if result is None:
        return launch.FAILED
    print("The run has ended well.")
    return 0


def relay(kit: str, *, listen: str | None = None) -> int:
    """Join sites that accept no connections from outside, until this is stopped; it forwards what it cannot read.

    Args:
        kit: The folder of the relay's kit.
        listen: Where to listen, such as 0.0.0.0:8443; none is the address in the kit.
    """
    _check_extra()
    from fedtangent.sites.kit import kit as opened
    from fedtangent.transports._relay import Relay

    own = opened(kit, relay=True)
    address = session.address(listen) or own.relay
    assert address is not None
    with in_use(kit):
        found = Relay(own.identity, address, own.book, session.tell)
        print(f"The relay of {own.federation} listens at {address}.", flush=True)
        found.run()
    return 0


def status(kit: str) -> int:
    """Tell what a kit and its records say right now: certificate, addresses, consents, process, run and checkpoint.

    Args:
        kit: The folder of the kit.
    """
    _check_extra()
    from fedtangent.sites.status import status as told

    found = told(kit)
    for subject, text in found.rows:
        print(f"{subject:14}{text}".rstrip())
    for sentence in found.wrong:
        session.tell(sentence)
    return launch.FAILED if found.wrong else 0


def flower(folder: str) -> int:
    """Write a Flower app, by which `flwr run` starts a federation of sites under SuperLink and SuperNodes.

    Args:
        folder: A new one for the app.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True)
    except OSError as error:
        raise SettingError(f"`FOLDER` must be a new folder; got {folder} ({error.strerror}). Name another.") from error
    text = files("fedtangent").joinpath("flower", "app", "pyproject.toml").read_text(encoding="utf-8")
    file, extra = path / "pyproject.toml", "fedtangent[flower]"
    file.write_text(text.replace(extra, f"{extra}=={__version__}"), encoding="utf-8")
    print(f"Written to {file}: choose method and options there, and start it with flwr run.")
    return 0


def _led(kit: str, asked: Experiment, dataset: Dataset | None, out: str | None, **how: Any) -> int:
    """The exit code of a run that this process proposes, when it is printed what it comes to; `how` is `lead`'s."""
    with in_use(kit, out):
        return _shown(session.lead(kit, asked, dataset, out=out, **how), out)


def _shown(result: Result | None, out: str | None) -> int:
    if result is None:
        return launch.FAILED
    folder = result.folder or Path(result.manifest["experiment"]["method"])
    Console().print(*measures.tables([records.Record(folder, result.manifest, result.rounds)]))
    if out is not None:
        print(f"Recorded in {out}.")
    return 0


def _check_extra() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise SettingError(
            "`cryptography` must be installed for a real federation; got none. Use pip install 'fedtangent[network]'."
        ) from error
