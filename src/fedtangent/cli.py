"""The command line: parses, calls, prints. Every option is read off a signature."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from inspect import getdoc, signature
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rich.console import Console

from fedtangent import __version__, catalog
from fedtangent.errors import SettingError, UserError
from fedtangent.experiments import launch
from fedtangent.experiments.conformance import NODES, ROUNDS
from fedtangent.experiments.conformance import check as conformance
from fedtangent.experiments.dry_run import dry_run as planned
from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.experiments.options import options, unknown
from fedtangent.experiments.run import Refused, Result
from fedtangent.experiments.run import run as run_experiment
from fedtangent.experiments.setup import Setup, setup
from fedtangent.experiments.together import agreed
from fedtangent.federation.engine import NodeError
from fedtangent.memory import out_of_memory
from fedtangent.parser import Parser, dashed, method_words, typed
from fedtangent.recipes import demo as demo_recipe
from fedtangent.recipes import recipe as recipes
from fedtangent.reports import page, progress, records, search, statistics, table
from fedtangent.reports.finding import finding
from fedtangent.reports.listings import MEANING
from fedtangent.reports.schema import printable
from fedtangent.sites import commands, site_words
from fedtangent.transports.ranks import Lost, joined, rank

INTERRUPTED, FAILED, WRONG, UNREAD = 130, launch.FAILED, launch.WRONG, 141


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0, 2 after one sentence about what is wrong, 130 after Ctrl-C, 141 where nobody reads on.

    Of a rank it is 1 where this one, or another, has failed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file's name, or a mean's ±, that the terminal's encoding cannot write
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _command([dashed(word) for word in (sys.argv[1:] if words is None else words)])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as of `fedtangent list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except (Lost, Refused):  # of which another rank, or what has launched them, tells
        if rank() == 0 and not launch.launched():
            print("fedtangent: another rank has ended, and with it this run. Go on with --resume.", file=sys.stderr)
        return FAILED
    except (ValueError, TypeError, OSError, MemoryError, RuntimeError) as error:
        told = str(error)
        if not isinstance(error, (UserError, OSError, NodeError)):
            if not out_of_memory(error):
                raise  # a fault of the program, which its traceback explains
            told = f"memory must hold what is computed; got {told}. Take a smaller model, fewer nodes or fewer rows."
        place, own = rank(), isinstance(error, NodeError) or out_of_memory(error)
        if place is None or place == 0 or own:  # the other ranks have found the same
            of = f"rank {place}: " if place is not None and own else ""
            print(f"fedtangent: {of}{printable(' '.join(told.split()))}", file=sys.stderr)
        return FAILED if place is not None and own else WRONG
    except KeyboardInterrupt as stop:
        print(f"fedtangent: stopped{f'; {stop}' if str(stop) else ''}.", file=sys.stderr)
        return INTERRUPTED


def run(
    settings: dict[str, Any],
    *,
    seeds: tuple[int, ...] | None = None,
    target: float | None = None,
    out: str | None = None,
    resume: bool = False,
    dry_run: bool = False,
    tensorboard: bool = False,
    ranks: int | None = None,
) -> int:
    """Run a method, and record and print what it comes to.

    Args:
        settings: Of the experiment.
        seeds: Repeat with each of these, such as 0,1,2, and report mean and deviation.
        target: Report rounds and bytes to this accuracy, such as 0.85 (in a regression, to this loss).
        out: The folder for the record; with several seeds one folder a seed inside it; none records nothing.
        resume: Go on with the run in the folder, to the same record.
        dry_run: Print bytes, memory and an estimate of the time, and run nothing.
        tensorboard: Log the rounds for TensorBoard too, in the folder.
        ranks: Run on so many processes of this machine, with a part of the nodes on each, to the same record.
    """
    if seeds is not None and ("seed" in settings or not seeds or len(set(seeds)) < len(seeds)):
        raise SettingError(
            f"`seeds` must be different numbers, without `seed` beside them; got {seeds}. Drop the rest."
        )
    if seeds is None:
        asked = [(experiment(**settings), out)]
    else:
        asked = [
            (experiment(**settings, seed=seed), None if out is None else str(Path(out) / f"seed-{seed}"))
            for seed in seeds
        ]
    with nullcontext() if rank() is None else joined(str(asked[0][0].device)):
        return _ran(asked, target, out, dry_run, resume=resume, tensorboard=tensorboard)


def _ran(
    asked: Sequence[tuple[Experiment, str | None]], target: float | None, out: str | None, dry_run: bool, **how: bool
) -> int:
    """Runs some experiments, each with its folder; on ranks the first of them alone prints."""
    recorded = []
    for one, folder in asked:
        built = setup(one) if rank() is None else agreed(one)
        if target is not None:
            table.checked_target(target, "accuracy" if built.classes else "loss")
        if built.leads:
            _announce(built)
        if dry_run:
            _print_plan(built)
            return 0
        try:
            recorded.append(_record(_progressing(built, folder, **how)))
        except KeyboardInterrupt:
            if not built.leads:
                return INTERRUPTED
            kept = "nothing is kept without --out" if folder is None else f"go on from {folder} with --resume"
            print(f"fedtangent: stopped; {kept}.", file=sys.stderr)
            return INTERRUPTED
    if not built.leads:
        return 0
    Console().print(table.table(recorded, target))
    if out is not None:
        print(f"Recorded in {out}.")
    return 0


def check(settings: dict[str, Any]) -> int:
    """Check that a method, such as a file of your own, is written so that any engine and any transport can run it.

    Args:
        settings: Of the experiment that it is tried on; 6 nodes and 2 rounds where nothing is said.
    """
    cycle = setup(experiment(**{"nodes": NODES, "rounds": 1000, **settings})).method.schedule.cycle
    for line in conformance(experiment(**{"nodes": NODES, "rounds": max(ROUNDS, cycle), **settings})):
        print(f"right: {line}")
    return 0


def demo(*, out: str = "runs/demo.html", seed: int = 0, target: float | None = None) -> int:
    """Run some methods side by side on the digits, print the comparison and write it as a page.

    Args:
        out: The HTML page to write.
        seed: Of everything that is drawn.
        target: The accuracy to be reached in few rounds and bytes; none chooses one.
    """
    if target is not None:
        table.checked_target(target, "accuracy")
    page.ready(out)
    recorded = [_record(_progressing(setup(one), None)) for one in demo_recipe.experiments(seed)]
    return _shown(recorded, target, out)


def report(folders: Sequence[str], *, out: str = "report.html", target: float | None = None) -> int:
    """Compare runs: print the table, and write the page with curves, label skew and graph.

    Args:
        folders: Of runs, or folders that hold those, up to three levels down.
        out: The HTML page to write.
        target: The accuracy to be reached in few rounds and bytes; none chooses one.
    """
    page.ready(out)
    searched = search.runs(folders)
    for sentence in searched.left_out:
        print(printable(sentence), file=sys.stderr)
    return _shown(searched.records, target, out)


def recipe(chosen: recipes.Recipe, settings: Mapping[str, Any], *, out: str | None = None) -> int:
    """Run a recipe: measure, record every row, print the table and write the figure as a page.

    Args:
        chosen: The recipe.
        settings: Its options.
        out: The folder for rows, manifest and page; none is runs/ and the recipe's name.
    """
    folder = Path(out or f"runs/{chosen.name}")
    with progress.rows(chosen.name) as show:
        outcome = recipes.run(chosen, settings, folder, show)
    if not outcome.measured:
        print(f"Measured before, in {folder}; give another --out to measure anew.")
    Console().print(outcome.table)
    print(f"Written to {folder / recipes.PAGE}.")
    return 0


def list_() -> int:
    """Show the methods, models, data sets, augmentations, partitions, topologies, engines and recipes."""
    for folder in catalog.FOLDERS:
        print(folder)
        _print_names(folder)
    return 0


def _command(words: list[str]) -> int:
    offered: dict[str, Callable[..., int]] = {
        "run": run, "check": check, "demo": demo, "report": report, "recipe": recipe, "list": list_,
        "provision": commands.provision, "revoke": commands.revoke,
        "server": commands.server, "site": commands.site, "start": commands.start,
    }  # fmt: skip
    if not words or words[0] in ("-h", "--help"):
        print("usage: fedtangent COMMAND ...   (--help after a command tells its options)\n")
        for name, command in offered.items():
            print(f"  {name:10}{_first_line(command)}")
        print("\n  --version")
        return 0
    if words[0] == "--version":
        print(f"fedtangent {__version__}")
        return 0
    if words[0] not in offered:
        for first, folder in {"run": "methods", "recipe": "recipes"}.items():
            if words[0] in catalog.names(folder):
                raise SettingError(
                    f"`{words[0]}` must come after {first}; got it first. Use fedtangent {first} {words[0]}."
                )
        raise SettingError(unknown(words[0], offered, "a command"))
    name, rest = words[0], words[1:]
    if name in ("run", "check"):
        return _parse_run(rest, name)
    if name == "recipe":
        return _parse_recipe(rest)
    if name in ("provision", "revoke", "server", "site", "start"):
        return site_words.parsed(name, rest, offered[name])
    parser = Parser(f"fedtangent {name}", _first_line(offered[name]))
    if name == "report":
        parser.add_argument("folders", nargs="+", metavar="DIR", help="A run's folder, or one that holds some.")
    known = options(offered[name])
    for option in known.values():
        parser.offer(option, option.name)
    values = parser.values(rest, known, f"an option of {name}")
    folders = [values.pop("folders")] if name == "report" else []
    return offered[name](*folders, **{key: typed(known[key], value) for key, value in values.items()})


def _parse_run(words: list[str], name: str = "run") -> int:
    methods = ", ".join(catalog.names("methods"))
    if not words or words[0].startswith("-"):
        if set(words) & {"-h", "--help"}:
            print(f"usage: fedtangent {name} METHOD [options]\n\n{_first_line(check if name == 'check' else run)}\n")
            print(
                f"METHOD is one of {methods}, or a file of your own; fedtangent {name} METHOD --help tells its options."
            )
            return 0
        got = repr(words[0]) if words else "nothing"
        raise SettingError(f"`METHOD` must come first after {name}; got {got}. Name one of {methods}.")
    settings, command = method_words(name, words, options(check if name == "check" else run))
    if name == "check":
        return check(settings)
    if command.get("ranks") is not None and not launch.launched():
        if command.get("dry_run"):
            raise SettingError("`ranks` must be left out of a dry run, which is of one process; got both. Drop it.")
        return launch.launch(["run", *words], command["ranks"], experiment(**settings).size)
    launch.watch()
    return run(settings, **command)


def _parse_recipe(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: fedtangent recipe NAME [options]\n\n{_first_line(recipe)}\n")
        _print_names("recipes")
        print("\nNAME may be a file of your own, too; fedtangent recipe NAME --help tells its options.")
        return 0
    if words[0].startswith("-"):
        names = ", ".join(catalog.names("recipes"))
        raise SettingError(f"`NAME` must come first after recipe; got {words[0]!r}. Name one of {names}.")
    chosen, own = recipes.load(words[0]), options(recipe)
    known = {**own, **chosen.options}
    parser = Parser(f"fedtangent recipe {words[0]}", f"{chosen.name}: {chosen.summary}")
    for option in known.values():
        parser.offer(option, option.name)
    given = parser.values(words[1:], known, f"an option of {chosen.name}")
    settings = {key: typed(known[key], value) for key, value in given.items()}
    return recipe(chosen, settings, **{key: settings.pop(key) for key in own if key in settings})


def _first_line(function: Callable[..., Any]) -> str:
    return (getdoc(function) or "").splitlines()[0]


def _print_names(folder: str) -> None:
    for name in catalog.names(folder):
        if folder != "datasets" or _from_folder(name):
            print(f"  {name:18}{catalog.summary(folder, name)}")


def _from_folder(name: str) -> bool:
    """Whether a data set can be had by name: one that takes Python objects cannot."""
    return "data_dir" in signature(catalog.load("datasets", name)).parameters


def _announce(built: Setup) -> None:
    level, count, told = built.method.exposure, built.task.size, built.description
    name = f"{told['method']} around {told['host']}" if "host" in told else told["method"]
    print(f"{name} on {built.dataset}, {len(built.data)} nodes, {count:,} parameters, seed {built.experiment.seed}")
    if built.engine_reason is not None:
        print(f"Engine {told['engine']}, since {built.engine_reason}")
    print(f"Exposure {level}: {MEANING[level]}", flush=True)


def _print_plan(built: Setup) -> None:
    plan = planned(built)
    size, rounds = statistics.bytes_text, built.experiment.rounds
    print(
        f"Bytes       {size(plan.first_round_bytes)} in round 1, {size(plan.later_round_bytes)} in a later one, "
        f"{size(plan.total_bytes)} in {rounds} rounds"
    )
    print(f"Memory      about {size(plan.memory_bytes)} beside Python and PyTorch")
    print(
        f"Time        about {plan.seconds_a_round:.3g} s a round and {plan.evaluation_seconds:.3g} s for its "
        f"evaluation, {plan.seconds:.3g} s in all, by the {built.engine.name} engine"
    )


def _record(result: Result) -> records.Record:
    folder = result.folder or Path(result.manifest["experiment"]["method"])
    return records.Record(folder, result.manifest, result.rounds)


def _shown(recorded: Sequence[records.Record], target: float | None, out: str) -> int:
    groups, kind = records.groups(recorded), records.measure(recorded)
    goal = statistics.common_target(groups, kind) if target is None else target
    Console().print(table.table(recorded, target))
    print(finding(groups, kind, goal), flush=True)
    page.write(recorded, out, target)
    print(f"Written to {out}.")
    return 0


def _progressing(built: Setup, out: str | None, **how: bool) -> Result:
    """The result of a run, with a bar on the terminal or a line a round elsewhere."""
    with progress.rounds(built) if built.leads else nullcontext() as show:
        return run_experiment(built, out, on_round=show, **how)
