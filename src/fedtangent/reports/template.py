"""An HTML page from its frame, which every page has, and its own sections: files of this folder."""

import base64
import hashlib
from html import escape
from importlib import resources
from string import Template


def page(
    sections: str,
    *,
    title: str,
    kicker: str,
    finding: str,
    introduction: str,
    script: str | None = None,
    **values: str | int,
) -> str:
    """The whole page, which needs no other file, and runs no script but its own: the policy names its digest.

    Args:
        sections: The file of its sections.
        title: Of the page, as plain text.
        kicker: What stands above the title, as plain text.
        finding: What the page shows, in a sentence, as plain text.
        introduction: What comes before the sections, as HTML.
        script: The file of its script; none has none.
        values: What the sections name, as HTML.
    """
    code = "" if script is None else _file(script).strip()
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return Template(_file("page.html")).substitute(
        title=escape(title),
        css=_file("page.css").strip(),
        policy=f"; script-src 'sha256-{digest}'" if code else "",
        script=f"<script>{code}</script>\n" if code else "",
        kicker=escape(kicker),
        finding=escape(finding),
        introduction=introduction,
        sections=Template(_file(sections)).substitute(values),
    )


def _file(name: str) -> str:
    return resources.files("fedtangent.reports").joinpath(name).read_text(encoding="utf-8")
