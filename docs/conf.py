"""How Sphinx builds the site: `make docs`."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import pages

from fedtangent import __version__

project = "fedtangent"
author = copyright = "the authors of fedtangent"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["results/recipes", "results/fashion_mnist"]
html_theme = "furo"
html_title = f"fedtangent {__version__}"
html_show_copyright = html_show_sphinx = html_copy_source = False
highlight_language = "text"
default_role = "literal"  # single backticks in docstrings are code
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring, napoleon_numpy_docstring, napoleon_use_ivar = True, False, True


def setup(app: Any) -> None:
    """Writes the pages that are read off the files before Sphinx looks for pages."""
    app.connect("builder-inited", lambda app: pages.write(Path(app.srcdir)))
    app.connect("autodoc-process-docstring", plain, priority=100)  # before the sections are read
    app.connect("autodoc-skip-member", field)


def field(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of a named tuple, which its docstring describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def plain(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: what is a product, a norm or a name in them is no markup."""
    for number, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        lines[number] = "".join(p if p.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", p) for p in parts)
