"""An HTML page from its frame, which every page has, and its own sections: files of this folder."""

from html import escape
from importlib import resources
from string import Template


def page(sections: str, *, title: str, kicker: str, finding: str, introduction: str, **values: str | int) -> str:
    """The whole page, which needs no other file.

    Args:
        sections: The file of its sections.
        title: Of the page, as plain text.
        kicker: What stands above the title, as plain text.
        finding: What the page shows, in a sentence, as plain text.
        introduction: What comes before the sections, as HTML.
        values: What the sections name, as HTML.
    """
    return Template(_file("page.html")).substitute(
        title=escape(title),
        css=_file("page.css").strip(),
        kicker=escape(kicker),
        finding=escape(finding),
        introduction=introduction,
        sections=Template(_file(sections)).substitute(values),
    )


def _file(name: str) -> str:
    return resources.files("fedtangent.reports").joinpath(name).read_text(encoding="utf-8")
