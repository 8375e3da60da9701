"""Written: the options of a function as its file tells them, without importing the file or PyTorch.

The same as `options` of the function, in a hundredth of the time: annotations and defaults are evaluated in the names
that the file defines or imports, of which those from outside the standard library and this package stand for any type.
"""

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import fedtangent
from fedtangent.experiments.options import REQUIRED, Option, arguments, untyped

ROOT = Path(fedtangent.__file__).parent


class _Opaque(type):
    """A type that is not looked into, such as torch.nn.Module."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _opaque(name)

    def __call__(cls, *_: Any, **__: Any) -> Any:
        return cls


def _opaque(name: str) -> Any:
    return _Opaque(name, (), {})


def file(module: str) -> Path | None:
    """The file of a module of this package; None for one from outside."""
    parts = module.split(".")
    if parts[0] != ROOT.name:
        return None
    path = ROOT.joinpath(*parts[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree(path: Path) -> ast.Module:
    """The file's syntax as it is now."""
    return _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, _: int) -> ast.Module:
    return ast.parse(path.read_bytes())


def written(path: Path, name: str) -> dict[str, Option]:
    """The keyword-only parameters of a function, or the fields of a dataclass, by name.

    Args:
        path: A file of this package, or a user's own.
        name: Of the function or class, which may be defined inside another.

    Raises:
        LookupError: No such function, or one that something decorates, or one whose options the file alone cannot tell.
    """
    found = next((node for node in ast.walk(tree(path)) if _defines(node, name)), None)
    if found is None or (isinstance(found, ast.FunctionDef) and found.decorator_list):
        raise LookupError(name)
    assert isinstance(found, (ast.FunctionDef, ast.ClassDef))
    help_, names = arguments(ast.get_docstring(found) or ""), _Names(path)
    return {key: _option(key, kind, default, help_.get(key, ""), names) for key, kind, default in _parameters(found)}


def parameters(path: Path, name: str) -> set[str]:
    """The names of all parameters of a function."""
    found = next(node for node in tree(path).body if _defines(node, name))
    assert isinstance(found, ast.FunctionDef)
    return {argument.arg for argument in [*found.args.posonlyargs, *found.args.args, *found.args.kwonlyargs]}


def first_line(path: Path, name: str) -> str:
    """The first line of a function's docstring."""
    found = next(node for node in tree(path).body if _defines(node, name))
    assert isinstance(found, ast.FunctionDef)
    return (ast.get_docstring(found) or "").partition("\n")[0]


def told(path: Path, call: str, argument: str) -> bool:
    """Whether a file calls a function of this name with an argument that is no False, 0 or empty text."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == call
        and any(k.arg == argument and isinstance(k.value, ast.Constant) and bool(k.value.value) for k in node.keywords)
        for node in ast.walk(tree(path))
    )


def names_any(path: Path, call: str, argument: str) -> bool:
    """Whether a file gives an argument of this name to a function, or makes its result of another's by `_replace`."""
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    if any(isinstance(node.func, ast.Attribute) and node.func.attr == "_replace" for node in calls):
        return True
    return names(path, call, argument)


def names(path: Path, call: str, argument: str) -> bool:
    """Whether a file gives an argument of this name to a function."""
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    mine = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == call]
    return any(keyword.arg == argument for node in mine for keyword in node.keywords)


def imports(path: Path, name: str) -> bool:
    """Whether a file imports something of this name from a module."""
    found = (node for node in tree(path).body if isinstance(node, ast.ImportFrom))
    return any(alias.name == name for node in found for alias in node.names)


def _defines(node: ast.AST, name: str) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name


def _parameters(found: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, ast.expr | None, ast.expr | None]]:
    """Name, annotation and default of each."""
    if isinstance(found, ast.ClassDef):
        for node in found.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, node.annotation, node.value
        return
    for argument, default in zip(found.args.kwonlyargs, found.args.kw_defaults, strict=True):
        yield argument.arg, argument.annotation, default


def _option(name: str, kind: ast.expr | None, default: ast.expr | None, help_: str, names: "_Names") -> Option:
    value = REQUIRED if default is None else names.value(default)
    return Option(name, untyped(value) if kind is None else names.value(kind), value, help_)


class _Names(dict[str, Any]):
    """What the names of a file stand for, each looked up when it is first used."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def value(self, expression: ast.expr) -> Any:
        """What an expression of the file comes to."""
        if isinstance(expression, ast.Constant) and isinstance(expression.value, str):  # it may be a forward reference
            return expression.value
        try:
            return eval(compile(ast.Expression(expression), str(self._path), "eval"), {}, self)
        except NameError as error:
            raise LookupError(f"{self._path.name}: {error}") from error

    def __missing__(self, name: str) -> Any:
        for node in tree(self._path).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self.setdefault(name, _opaque(name))
            if (value := _assigned(node, name)) is not None:
                return self.setdefault(name, self.value(value))
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return self.setdefault(name, _imported(node, alias.name))
        raise KeyError(name)  # a builtin


def _assigned(node: ast.stmt, name: str) -> ast.expr | None:
    """What a statement assigns to a name; None where it does not."""
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return None
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):  # a, b = 1, 2
            pairs = list(zip(target.elts, node.value.elts, strict=False))
        for own, value in pairs:
            if isinstance(own, ast.Name) and own.id == name:
                return value
    return None


def _imported(node: ast.Import | ast.ImportFrom, name: str) -> Any:
    module = node.module if isinstance(node, ast.ImportFrom) and node.module else name
    if module.split(".")[0] in sys.stdlib_module_names:
        found = importlib.import_module(module)
        return getattr(found, name) if isinstance(node, ast.ImportFrom) else found
    path = file(module)
    if path is None or not path.is_file():
        return _opaque(name)
    names: Mapping[str, Any] = _Names(path)
    try:
        return names[name]
    except KeyError:  # a function
        return _opaque(name)
