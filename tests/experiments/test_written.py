"""What a file tells of its functions without being imported is what the functions tell."""

import ast
from pathlib import Path
from typing import Any

import pytest

import fedtangent
from fedtangent import catalog, cli
from fedtangent.experiments import chain, written
from fedtangent.experiments.experiment import Experiment, choices, takes_host
from fedtangent.experiments.options import Option, _described, options, values_of
from fedtangent.experiments.parts import PARTS, found
from tests import tiny_federation as federation

ROOT = Path(fedtangent.__file__).parent
FUNCTIONS = [
    *(
        (catalog.path(folder, name), name, catalog.load(folder, name))
        for folder in catalog.FOLDERS
        for name in catalog.names(folder)
    ),
    *((ROOT / "cli.py", name, getattr(cli, name)) for name in ("run", "check", "demo", "report", "recipe")),
]


def told(option: Option) -> tuple[Any, ...]:
    """All that the command line makes of an option."""
    return option.name, _described(option.kind), option.kind is bool, values_of(option), option.default, option.help


@pytest.mark.parametrize(("path", "name", "function"), FUNCTIONS, ids=[f"{p.parent.name}-{n}" for p, n, _ in FUNCTIONS])
def test_options_of_a_file_are_those_of_its_function(path: Path, name: str, function: Any) -> None:
    read, known = written.written(path, name), options(function)
    assert list(read) == list(known)
    assert [told(option) for option in read.values()] == [told(option) for option in known.values()]


def test_an_experiments_own_settings() -> None:
    fields = {part.options for part in PARTS.values()}  # whose defaults a dataclass makes anew
    read, known = written.written(ROOT / "experiments" / "experiment.py", "Experiment"), options(Experiment)
    assert list(read) == list(known)
    assert [told(read[name]) for name in known if name not in fields] == [
        told(known[name]) for name in known if name not in fields
    ]


def test_options_of_a_chain() -> None:
    function = chain.chained("topk")
    assert function is not None
    known = {
        name: option for name, option in options(function).items() if name in ("messages", "direction", "feedback")
    }
    read = written.written(ROOT / "experiments" / "chain.py", "chain")
    assert [told(option) for option in read.values()] == [told(option) for option in known.values()]


def test_choices_are_found_alike_whoever_reads_them() -> None:
    """By the imported functions, and by options that are handed in."""
    fields = options(Experiment)
    mine = {
        "method": {"lr": Option("lr", float, 0.1, "")},
        "model": {"lr": Option("lr", int, 3, ""), "seed": Option("seed", int, 0, "")},
    }
    known = found(lambda part, value: mine.get(part, {}), fields, {"method": "x"})
    assert [part for part, _ in known["lr"]] == ["method", "model"]
    assert "seed" not in known and set(known) == {"lr", "method.lr", "model.lr", "model.seed"}
    assert takes_host("fedpart") and "host.lr" in choices("fedpart") and "method.host" not in choices("fedpart")


@pytest.mark.parametrize("name", catalog.names("methods"))
def test_traits_are_stated_where_they_are_read(name: str) -> None:
    traits = catalog.load("methods", name)(federation.task()).traits
    path = catalog.path("methods", name)
    assert written.told(path, "Traits", "neighbours") == traits.neighbours
    assert written.told(path, "Traits", "tangent") == traits.tangent
    messages = catalog.load("methods", name)(federation.task()).messages
    assert written.names_any(path, "Method", "messages") == bool(messages)


def test_a_summary_is_the_modules() -> None:
    import sys

    for folder in catalog.FOLDERS:
        for name in catalog.names(folder):
            module = sys.modules[catalog.load(folder, name).__module__]
            assert (module.__doc__ or "").splitlines()[0].endswith(f": {catalog.summary(folder, name)}")


def test_what_a_file_names(tmp_path: Path) -> None:
    """A constant, an alias, a type from outside, a forward reference; a docstring's lines."""
    path = tmp_path / "f.py"
    path.write_text(
        "from pathlib import Path\nfrom typing import Literal\n\nimport torch\nfrom torch import nn\n\n"
        "SIZE, MORE = 3 * 4, 2.5\nKind = Literal['a', 'b']\n\n\nclass Own:\n    pass\n\n\n"
        "def f(x, /, y, *, n: int = SIZE, kind: Kind | None = None, m: nn.Module | Own | torch.Tensor | None = None, "
        "p: 'Own', at: Path = Path('q'), u=(1,), v=MORE):\n    '''First.\n\n    Args:\n        n: The size.\n    '''\n",
        encoding="utf-8",
    )
    read = written.written(path, "f")
    assert list(read) == ["n", "kind", "m", "p", "at", "u", "v"]
    assert (read["n"].kind, read["n"].default, read["n"].help) == (int, 12, "The size.")
    assert values_of(read["kind"]) == ["a", "b"] and values_of(read["m"]) == []
    assert read["at"].default == Path("q") and read["u"].default == (1,) and read["v"].default == 2.5
    assert written.parameters(path, "f") == {"x", "y", "n", "kind", "m", "p", "at", "u", "v"}
    assert written.first_line(path, "f") == "First."
    assert written.file("torch.nn") is None and written.file("fedtangent.catalog") == ROOT / "catalog.py"
    assert written.file("fedtangent.methods") == ROOT / "methods" / "__init__.py"
    assert isinstance(written.tree(path), ast.Module)


@pytest.mark.parametrize(
    "text", ["", "@cache\ndef f(*, n: int = 1):\n    pass\n", "def f(*, n: int = nothing):\n    pass\n"]
)
def test_what_a_file_alone_cannot_tell(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(text, encoding="utf-8")
    with pytest.raises(LookupError):
        written.written(tmp_path / "f.py", "f")
