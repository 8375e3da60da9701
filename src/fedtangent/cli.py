"""The command line: parses, calls, prints. Every option is read off a signature."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fedtangent import catalog, front, home, method_words, parsers
from fedtangent.errors import SettingError, UserError
from fedtangent.experiments import launch
from fedtangent.experiments.conformance import NODES, ROUNDS
from fedtangent.experiments.conformance import check as conformance
from fedtangent.experiments.dry_run import dry_run as planned
from fedtangent.experiments.dry_run import foreseen
from fedtangent.experiments.experiment import Experiment, experiment
from fedtangent.experiments.folder import fresh
from fedtangent.experiments.options import options, unknown
from fedtangent.experiments.record import rule_sees
from fedtangent.experiments.resume import Refused
from fedtangent.experiments.run import Result
from fedtangent.experiments.run import run as run_experiment
from fedtangent.experiments.setup import Setup, setup
from fedtangent.experiments.together import agreed
from fedtangent.federation.engine import NodeError
from fedtangent.memory import out_of_memory
from fedtangent.parser import Parser, dashed, typed
from fedtangent.reports import measures, progress, records, search, statistics, table
from fedtangent.reports.console import Console
from fedtangent.reports.listings import MEANING
from fedtangent.reports.schema import printable
from fedtangent.transports.ranks import Lost, joined, rank

NEW = "new"  # stands for a folder of its own for a record
RUNS = Path("runs")  # where it is made
INTERRUPTED, FAILED, WRONG, UNREAD = 130, launch.FAILED, launch.WRONG, 141


def main(words: Sequence[str] | None = None) -> int:
    """The exit code: 0, 2 after one sentence about what is wrong, 130 after Ctrl-C, 141 where nobody reads on.

    Of a rank it is 1 where this one, or another, has failed.
    """
    front.legible()
    try:
        try:
            return _command([dashed(word) for word in (sys.argv[1:] if words is None else words)])
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        front.unread()
        return UNREAD
    except (Lost, Refused):  # of which another rank, or what has launched them, tells
        if rank() == 0 and not launch.launched():
            print("fedtangent: another rank has ended, and with it this run. Go on with --resume.", file=sys.stderr)
        return FAILED
    except Exception as error:
        told = _told(error)
        if told is None:
            raise  # a fault of the program, which its traceback explains
        place, own = rank(), isinstance(error, NodeError) or not isinstance(error, (UserError, OSError))
        if place is None or place == 0 or own:  # the other ranks have found the same
            of = f"rank {place}: " if place is not None and own else ""
            print(f"fedtangent: {of}{printable(' '.join(told.split()))}", file=sys.stderr)
        return FAILED if place is not None and own else WRONG
    except KeyboardInterrupt as stop:
        print(f"fedtangent: stopped{f'; {stop}' if str(stop) else ''}.", file=sys.stderr)
        return INTERRUPTED


def _told(error: Exception) -> str | None:
    """The sentence about what a user has to change; None for a fault of the program."""
    if isinstance(error, OSError) and error.errno and error.filename:
        file = str(error.filename)[-80:]
        return f"`path` must be one that can be used; got {file!r} ({error.strerror}). Choose another."
    if isinstance(error, OSError) and error.errno:
        return front.refused(error)
    if isinstance(error, (UserError, OSError, NodeError)):
        return str(error)
    if out_of_memory(error):
        return f"memory must hold what is computed; got {error}. Take a smaller model, fewer nodes or fewer rows."
    return catalog.failed(error)


def run(
    settings: dict[str, Any],
    *,
    seeds: tuple[int, ...] | None = None,
    target: float | None = None,
    out: str | None = NEW,
    resume: bool = False,
    dry_run: bool = False,
    tensorboard: bool = False,
    track: tuple[str, ...] = (),
    ranks: int | None = None,
    quiet: bool = False,
) -> int:
    """Run a method, and record and print what it comes to.

    Args:
        settings: Of the experiment.
        seeds: Repeat with each of these, such as 0,1,2, and report mean and deviation.
        target: Report rounds and bytes to this accuracy, such as 0.85 (in a regression, to this loss).
        out: The folder for the record; with several seeds one folder a seed inside it. new is a new one in runs/, named
            by the method; none records nothing.
        resume: Go on with the run in the folder, to the same record.
        dry_run: Print bytes, memory and an estimate of the time, and run nothing.
        tensorboard: Log the rounds for TensorBoard too, in the folder.
        track: Give settings, rounds, model and page to trackers, such as tensorboard,mlflow,wandb,trackio.
        ranks: Run on so many processes of this machine, with a part of the nodes on each, to the same record.
        quiet: Print the result alone, and warnings, without a word about what is run and how far it is.
    """
    if seeds is not None and ("seed" in settings or not seeds or len(set(seeds)) < len(seeds)):
        raise SettingError(
            f"`seeds` must be different numbers, without `seed` beside them; got {seeds}. Drop the rest."
        )
    if resume and out == NEW:
        raise SettingError("`resume` must have a folder to go on from; got no `out`. Give --out.")
    several = [experiment(**settings)] if seeds is None else [experiment(**settings, seed=seed) for seed in seeds]
    with (
        nullcontext() if rank() is None else joined(str(several[0].device)),
        _folder(out, several[0].name, dry_run or rank() not in (None, 0)) as folder,
    ):
        folders = [folder / f"seed-{one.seed}" if folder and seeds else folder for one in several]
        asked = list(zip(several, folders, strict=True))
        code = _ran(asked, target, dry_run, quiet, resume=resume, tensorboard=tensorboard, track=track)
        if code == 0 and rank() in (None, 0) and not dry_run and folder is not None and (out == NEW or not quiet):
            print(f"Recorded in {folder}.")
        return code


def _folder(out: str | None, name: str, idle: bool) -> AbstractContextManager[Path | None]:
    """The folder for the record, made where it is to be a new one, unless nothing is recorded here."""
    if out == NEW:
        return nullcontext(RUNS / name) if idle else fresh(RUNS, name)
    if out == "":
        raise SettingError("`out` must be a path; got ''. Name a folder, or none.")
    return nullcontext(None if out is None else home.path(out))


def _ran(
    asked: Sequence[tuple[Experiment, Path | None]],
    target: float | None,
    dry_run: bool,
    quiet: bool,
    **how: Any,
) -> int:
    """Runs some experiments, each with its folder; on ranks the first of them alone prints."""
    recorded: list[records.Record] = []
    told = False
    for one, folder in asked:
        built = setup(one) if rank() is None else agreed(one)
        if target is not None:
            table.checked_target(target, "accuracy" if built.classes else "loss")
        if built.leads and not quiet:
            _announce(built)
        if dry_run:
            _print_plan(built)
            return 0
        try:
            told = told or (rank() is None and progress.foretold(foreseen(built), one.rounds, len(asked)))
            recorded.append(_record(_progressing(built, folder, quiet, told, **how)))
        except KeyboardInterrupt:
            if not built.leads:
                return INTERRUPTED
            kept = "nothing is kept without --out" if folder is None else f"go on from {folder} with --resume"
            print(f"fedtangent: stopped; {kept}.", file=sys.stderr)
            return INTERRUPTED
    if not built.leads:
        return 0
    Console().print(*measures.tables(recorded, target))
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


def demo(*, out: str = "runs/demo.html", seed: int = 0, target: float | None = None, quiet: bool = False) -> int:
    """Run some methods side by side on the digits, print the comparison and write it as a page.

    Args:
        out: The HTML page to write. An earlier report of that name is replaced; any other file is kept, and refused.
        seed: Of everything that is drawn.
        target: The accuracy to be reached in few rounds and bytes; none chooses one.
        quiet: Print the result alone, without how far it is.
    """
    if target is not None:
        table.checked_target(target, "accuracy")
    from fedtangent.recipes import demo as demo_recipe
    from fedtangent.reports import page

    page.ready(out)
    recorded = [_record(_progressing(setup(one), None, quiet)) for one in demo_recipe.experiments(seed)]
    return _shown(recorded, target, out)


def report(folders: Sequence[str], *, out: str = "report.html", target: float | None = None) -> int:
    """Compare runs: print the table, and write the page with curves, label skew and graph.

    Args:
        folders: Of runs, or folders that hold those, up to three levels down.
        out: The HTML page to write. An earlier report of that name is replaced; any other file is kept, and refused.
        target: The accuracy to be reached in few rounds and bytes; none chooses one.
    """
    from fedtangent.reports import page

    page.ready(out)
    searched = search.runs(folders)
    for sentence in searched.left_out:
        print(printable(sentence), file=sys.stderr)
    return _shown(searched.records, target, out)


def recipe(chosen: Any, settings: Mapping[str, Any], *, out: str | None = None, quiet: bool = False) -> int:
    """Run a recipe: measure, record every row, print the table and write the figure as a page.

    Args:
        chosen: The recipe, loaded.
        settings: Its options.
        out: The folder for rows, manifest and page; none is runs/ and the recipe's name.
        quiet: Print the result alone, without how far it is.
    """
    from fedtangent.recipes import recipe as recipes

    folder = home.path(out or f"runs/{chosen.name}")
    with nullcontext() if quiet else progress.rows(chosen.name) as show:
        outcome = recipes.run(chosen, settings, folder, *([] if show is None else [show]))
    if not outcome.measured:
        print(f"Measured before, in {folder}; give another --out to measure anew.")
    Console().print(outcome.table)
    print(f"Written to {folder / recipes.PAGE}.")
    return 0


def _command(words: list[str]) -> int:
    if (code := front.answered(words)) is not None:
        return code
    name, rest = words[0], words[1:]
    if name in parsers.SITE_COMMANDS:
        from fedtangent.sites import commands, site_words

        return site_words.parsed(name, rest, getattr(commands, name))
    if name not in parsers.COMMANDS:
        for first, folder in {"run": "methods", "recipe": "recipes"}.items():
            if name in catalog.names(folder):
                raise SettingError(f"`{name}` must come after {first}; got it first. Use fedtangent {first} {name}.")
        raise SettingError(
            unknown(name, dict.fromkeys([*parsers.COMMANDS, *parsers.SITE_COMMANDS, "list", "completion"]), "a command")
        )
    if name in ("run", "check"):
        return _parse_run(rest, name)
    if name == "recipe":
        return _parse_recipe(rest)
    command: Callable[..., int] = demo if name == "demo" else report
    known = options(command)
    values = parsers.command_parser(name).values(rest, known, f"an option of {name}")
    folders = [values.pop("folders")] if name == "report" else []
    return command(*folders, **{key: typed(known[key], value) for key, value in values.items()})


def _parse_run(words: list[str], name: str = "run") -> int:
    settings, command = method_words.parsed(name, words, options(check if name == "check" else run))
    if name == "check":
        return check(settings)
    if command.get("ranks") is not None and not launch.launched():
        if command.get("dry_run"):
            raise SettingError("`ranks` must be left out of a dry run, which is of one process; got both. Drop it.")
        asked = experiment(**settings)
        if command.get("resume") or command.get("out", NEW) != NEW:
            return launch.launch(["run", *words], command["ranks"], asked.size)
        with fresh(RUNS, asked.name) as folder:
            return launch.launch(["run", *words, "--out", str(folder)], command["ranks"], asked.size)
    launch.watch()
    return run(settings, **command)


def _parse_recipe(words: list[str]) -> int:
    if words[0].startswith("-"):
        names = ", ".join(catalog.names("recipes"))
        raise SettingError(f"`NAME` must come first after recipe; got {words[0]!r}. Name one of {names}.")
    from fedtangent.recipes import recipe as recipes

    chosen, own = recipes.load(words[0]), options(recipe)
    known = {**own, **chosen.options}
    parser = Parser(f"fedtangent recipe {words[0]}", f"{chosen.name}: {chosen.summary}")
    for option in known.values():
        parser.offer(option, option.name)
    given = parser.values(words[1:], known, f"an option of {chosen.name}")
    settings = {key: typed(known[key], value) for key, value in given.items()}
    return recipe(chosen, settings, **{key: settings.pop(key) for key in own if key in settings})


def _announce(built: Setup) -> None:
    level, count, told = built.method.exposure, built.task.size, built.description
    name = f"{told['method']} around {told['host']}" if "host" in told else told["method"]
    print(f"{name} on {built.dataset}, {len(built.data)} nodes, {count:,} parameters, seed {built.experiment.seed}")
    if built.engine_reason is not None:
        print(f"Engine {told['engine']}, since {built.engine_reason}")
    print(f"Exposure {level}: {MEANING[level]}", flush=True)
    if built.experiment.static and (graph := built.graph(1)) is not None and not graph.connected:
        print("The graph of all rounds falls into parts, whose nodes never hear of one another.", flush=True)
    if built.rule is not None:
        print(f"Rule {told['rule']}: it sees {rule_sees(built.rule)}, which secure sums would hide.", flush=True)
    if built.liars is not None:
        print(f"Attack {told['attack']}: the nodes {', '.join(map(str, sorted(built.liars.nodes)))} lie.", flush=True)


def _print_plan(built: Setup) -> None:
    plan = planned(built)
    size, long, rounds = statistics.bytes_text, statistics.time_text, built.experiment.rounds
    print(
        f"Bytes       {size(plan.first_round_bytes)} in round 1, {size(plan.later_round_bytes)} in a later one, "
        f"{size(plan.total_bytes)} in {rounds} rounds"
    )
    print(f"Memory      about {size(plan.memory_bytes)} beside Python and PyTorch")
    print(
        f"Time        about {long(plan.seconds_a_round)} a round and {long(plan.evaluation_seconds)} for its "
        f"evaluation, {long(plan.seconds)} in all, by the {built.engine.name} engine"
    )


def _record(result: Result) -> records.Record:
    folder = result.folder or Path(result.manifest["experiment"]["method"])
    return records.Record(folder, result.manifest, result.rounds)


def _shown(recorded: Sequence[records.Record], target: float | None, out: str) -> int:
    from fedtangent.reports import page
    from fedtangent.reports.finding import finding

    groups, kind = records.groups(recorded), records.measure(recorded)
    goal = statistics.common_target(groups, kind) if target is None else target
    Console().print(*measures.tables(recorded, target))
    print(finding(groups, kind, goal), flush=True)
    page.write(recorded, out, target)
    print(f"Written to {out}.")
    return 0


def _progressing(built: Setup, out: Path | None, quiet: bool = False, told: bool = False, **how: Any) -> Result:
    """The result of a run, with a bar on the terminal or a line a round elsewhere; `told` if its length has been."""
    shown = built.leads and not quiet
    warn = progress.patience(built) if built.leads and not told else None
    with progress.rounds(built) if shown else nullcontext() as show:

        def tell(entry: dict[str, Any]) -> None:
            for one in (show, warn):
                if one is not None:
                    one(entry)

        if how.get("track"):
            from fedtangent.reports.page import of_run

            how["page"] = of_run
        return run_experiment(built, out, on_round=tell, **how)
