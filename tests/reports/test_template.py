"""A page is a frame around its sections, and its texts are no HTML."""

import pytest

from fedtangent.reports import template


def test_texts_are_escaped_and_html_is_not() -> None:
    names = ("name", "width", "drawing", "table", "settings", "csv", "count")
    values = {**dict.fromkeys(names, "x"), "table": "<table></table>"}
    texts = {"title": "<i>", "kicker": "<b>", "finding": "a & b", "introduction": "<p>first</p>"}
    page = template.page("recipe.html", **texts, **values)
    assert "<title>&lt;i&gt;</title>" in page and "&lt;b&gt;" in page and "a &amp; b" in page
    assert "<p>first</p>\n</header>\n<section" in page and "<table></table>" in page
    assert "$" not in page and page.startswith("<!doctype html>\n") and page.endswith("</html>\n")


def test_a_value_that_is_missing() -> None:
    with pytest.raises(KeyError, match="drawing"):
        template.page("recipe.html", title="", kicker="", finding="", introduction="", name="", width=1)
