"""A recipe of a user's own, as the text of a file."""

from pathlib import Path

OWN = '''"""mine: squares grow."""

from matplotlib.figure import Figure

from fedtangent.errors import SettingError


def mine(done=(), *, count: int = 4, power: float = 2.0, loud=False):
    """Squares grow faster than what is squared.

    From one on, <each> once.

    Args:
        done: Rows that are there already.
        count: How many.
        power: Of each; 100% yours.
        loud: Whether to say so.
    """
    if count < 0:
        raise SettingError(f"`count` must not be negative; got {count}. Give a whole number.")
    for n in range(len(done) + 1, count + 1):
        yield {"n": n, "square": n**power, "loud": loud}


def table(rows):
    """The last one."""
    return [rows[-1]]


def figure(rows):
    """All of them."""
    drawn = Figure()
    drawn.subplots().plot([row["n"] for row in rows], [row["square"] for row in rows])
    return drawn
'''


def saved(folder: Path, *changes: tuple[str, str]) -> str:
    """The path of such a file, with some of its text replaced."""
    text = OWN
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)
