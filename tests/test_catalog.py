import inspect
import itertools
import os
import sys
from pathlib import Path

import pytest

import fedtangent
from fedtangent import catalog
from fedtangent.experiments.options import REQUIRED, options

EVERY = [(folder, name) for folder in catalog.FOLDERS for name in catalog.names(folder)]


@pytest.mark.parametrize("folder", catalog.FOLDERS)
def test_the_folder_is_the_registry(folder: str) -> None:
    files = {path.stem for path in (Path(fedtangent.__file__).parent / folder).glob("*.py")}
    if folder == "recipes":
        files -= {"demo", "recipe"}  # experiments, and what a recipe is
    assert catalog.names(folder) == sorted(name for name in files if not name.startswith("_"))
    assert catalog.names(folder)


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_every_file_defines_a_function_of_its_own_name(folder: str, name: str) -> None:
    found = catalog.load(folder, name)
    assert inspect.isfunction(found)
    assert (found.__module__, found.__name__) == (f"fedtangent.{folder}.{name}", name)


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_every_file_opens_with_its_name_and_one_sentence(folder: str, name: str) -> None:
    catalog.load(folder, name)
    first = (sys.modules[f"fedtangent.{folder}.{name}"].__doc__ or "").splitlines()[0]
    summary = catalog.summary(folder, name)
    assert summary.endswith(".")
    assert first.endswith(f": {summary}")
    assert len(first) > len(summary) + 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("csv", "--dataset table --data-dir FILE --label COLUMN"),
        ("Parquet", "--dataset table --data-dir FILE --label COLUMN"),
        ("patients.csv", "--dataset table --data-dir FILE --label COLUMN"),
        ("data/patients.tsv.gz", "--dataset table --data-dir FILE --label COLUMN"),
        ("hf", "--dataset huggingface --data-dir FOLDER --label COLUMN"),
        ("folder", "--dataset image_folder --data-dir FOLDER"),
        ("tiny-imagenet", "--dataset image_folder --data-dir FOLDER"),
        (str(Path(__file__).parent), "--dataset image_folder --data-dir FOLDER"),
        ("numpy", "--dataset npz --data-dir FILE.npz"),
        ("emnist", "--dataset leaf --data-dir FOLDER, or femnist"),
        ("time series", "--dataset series --data-dir FILE --label COLUMN --window TIMES"),
        ("tokenizer", "--dataset text --data-dir FILE --label COLUMN --tokenizer FILE"),
        ("torchvision", "fedtangent.datasets.torch_dataset, from Python"),
        ("digit", "'digits'"),
    ],
)
def test_a_data_set_of_ones_own_is_pointed_to_what_reads_it(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=r"^`dataset` must be one of ") as caught:
        catalog.load("datasets", name)
    assert str(caught.value).endswith(f"; got {name!r}. Did you mean {meant}?")


def test_what_is_pointed_to_is_there() -> None:
    from fedtangent import datasets

    for asked in catalog._READ.values():
        words = asked.replace(", or ", " --dataset ").split()
        for word, value in itertools.pairwise(words):
            if word == "--dataset":
                assert value in catalog.names("datasets")
    needed = {
        "table": {"label"},
        "huggingface": {"label"},
        "series": {"label", "window"},
        "text": {"label", "tokenizer"},
    }
    for name, its in needed.items():
        options_ = options(catalog.load("datasets", name))
        assert {key for key, option in options_.items() if option.default is REQUIRED} == its
    assert callable(datasets.torch_dataset)


def users_file(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_users_own_file_works_the_same_way(tmp_path: Path) -> None:
    path = users_file(tmp_path, '"""Mine: a method that I made up."""\n\ndef mine(task):\n    return task + 1\n')
    assert catalog.load("methods", path)(4) == 5
    assert catalog.summary("methods", path) == "a method that I made up."
    users_file(tmp_path, "def mine(task):\n    return task + 2\n")
    assert catalog.load("methods", path)(4) == 6
    assert catalog.summary("methods", path) == ""


@pytest.mark.parametrize(
    ("folder", "name", "message"),
    [
        (
            "methods",
            "fedavgs",
            r"^`method` must be one of afl, central, .*local.*; got 'fedavgs'. Did you mean 'fedavg'\?$",
        ),
        (
            "topologies",
            "xyzzy",
            r"^`topology` must be one of .*; got 'xyzzy'. Or give the path of a file of your own.$",
        ),
        ("topologies", "_rows", r"^`topology` must be one of .*; got '_rows'. .*$"),
        ("topologies", "no/such.py", r"^`topology` must name a file that exists; got 'no/such.py'. Check the path.$"),
        ("recipes_", "x", r"^`folder` must be one of methods, .*, recipes; got 'recipes_'.$"),
    ],
)
def test_unknown_names_are_one_clear_sentence(folder: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalog.load(folder, name)


def test_a_users_file_that_is_broken_is_one_clear_sentence(tmp_path: Path) -> None:
    broken = users_file(tmp_path, "import nothing_of_this_name\n", "broken.py")
    with pytest.raises(ValueError, match=r"^`.*broken.py` must be a Python file that imports; got ModuleNotFound.*\.$"):
        catalog.load("methods", broken)
    other = users_file(tmp_path, "def another(task):\n    return task\n", "other.py")
    with pytest.raises(ValueError, match=r"^`.*other.py` must define a function named 'other'; got none. Name .*\.$"):
        catalog.load("methods", other)


@pytest.mark.parametrize("name", ["my-method.py", "my method.py"])
def test_a_file_whose_name_no_function_can_have(name: str, tmp_path: Path) -> None:
    assert catalog.load("methods", users_file(tmp_path, "def my_method(task):\n    return task\n", name))(5) == 5


def test_a_users_file_is_run_once_until_it_is_edited(tmp_path: Path) -> None:
    text = "from pathlib import Path\nwith Path(__file__).with_suffix('.runs').open('a') as f:\n    f.write('x')\n"
    text += "def mine(task):\n    return 1\n"
    path = users_file(tmp_path, text, "mine.py")
    first = catalog.load("methods", path)
    assert catalog.load("methods", path) is first
    assert (tmp_path / "mine.runs").read_text() == "x"
    stamp = os.stat(path)
    users_file(tmp_path, text.replace("1", "2"), "mine.py")  # of one length and time: a cached .pyc would not notice
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert catalog.load("methods", path)(None) == 2
    assert first(None) == 1
    assert not list(tmp_path.glob("__pycache__"))


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        text = f"class State:\n    of = {name!r}\n\n\ndef mine():\n    return State\n"
        found.append(catalog.load("methods", users_file(tmp_path / name, text, "mine.py")))
    assert [build().of for build in found] == ["a", "b"]
    assert found[0]() is not found[1]()


def test_a_file_that_failed_is_run_again(tmp_path: Path) -> None:
    path = users_file(tmp_path, "import nothing_of_this_name\n\n\ndef mine():\n    return 1\n", "mine.py")
    for _ in range(2):
        with pytest.raises(ValueError, match="must be a Python file that imports"):
            catalog.load("methods", path)
