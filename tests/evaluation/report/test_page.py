"""The report page: complete, self-contained, and safe with any names in the data."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.page import PageDetails, QueryExample, render_page
from tests.evaluation.report.example_reports import NO_GAP, SOFT_TARGETS, report

HOSTILE = 'Film </script><b onclick="x">"1" & Söhne ✓'
CURVES = {"baseline": [[0.1, 0.3, 0.2]], "distilled": [[0.2, 0.4, 0.3], [0.1, 0.1]]}
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def example(query: str, overlap: float = 0.5) -> QueryExample:
    top = {"teacher": [HOSTILE, "B"], "distilled": ["B", "C"], "baseline": ["D"]}
    return QueryExample(query, ["H1", "H2"], ["B"], top, overlap)


def details(**changes) -> PageDetails:
    examples = [example(f"user {number}") for number in range(8)]
    return PageDetails(**({"curves": CURVES, "examples": examples} | changes))


class Elements(HTMLParser):
    """Collects start tags with their attributes, and checks the nesting."""

    VOID = frozenset({"meta", "br", "input", "path", "use", "rect", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(report(soft_targets=SOFT_TARGETS), details())


def test_the_verdict_and_all_numbers_of_the_report_are_on_the_page(page):
    assert "<h1>By NDCG@10, distillation closed 48% [21%, 71%] of the gap" in page
    assert "0.091 [0.081, 0.107]" in page
    assert NO_GAP in page
    assert "the teacher is better by 0.02" in page
    assert "ab12" in page
    assert "&#34;dim&#34;: 32" in page


def test_sections_are_well_formed_and_charts_have_alternative_text(page):
    found = Elements(page)
    sections = [attributes["id"] for tag, attributes in found.tags if tag == "section"]
    assert sections == [
        "quality", "slices", "examples", "agreement", "latency", "training", "data",
        "reproduce",
    ]  # fmt: skip
    figures = [attributes for tag, attributes in found.tags if tag == "figure"]
    assert len(figures) == 4
    assert all(figure["aria-label"] for figure in figures)


def test_nothing_is_loaded_from_outside(page):
    for tag, attributes in Elements(page).tags:
        assert tag not in {"link", "img", "iframe"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    assert "default-src 'none'" in page
    assert not re.search(r"url\((?!#)|@import", page)


def test_names_from_the_data_cannot_become_markup(page):
    data = re.search(r'id="examples-data">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)[0]["top"]["teacher"][0] == HOSTILE
    named = render_page(report(name=HOSTILE, soft_targets=SOFT_TARGETS), details())
    assert "<b onclick" not in named
    assert len(Elements(named).tags) == len(Elements(page).tags)


def test_the_same_report_gives_the_same_page(page):
    assert render_page(report(soft_targets=SOFT_TARGETS), details()) == page


def test_parts_without_numbers_are_left_out():
    bare = report(
        models={}, gap_closed={}, kept={}, differences={}, agreement={}, speedup={},
        gate=None,
    )  # fmt: skip
    sections = re.findall(r'<section id="(\w+)"', render_page(bare))
    assert sections == ["data", "reproduce"]


def test_the_candidates_are_named_as_in_the_receipt():
    listed = report(
        protocol=report().protocol.model_copy(update={"candidates": "listed"})
    )
    assert "Ranked: candidates of each list; seen items" in render_page(listed)


def test_survival_is_drawn_where_it_has_several_points():
    agreement = {f"survival@{n}": Interval(n / 200, 0.2, 1.0) for n in (50, 100, 200)}
    page = render_page(report(agreement=agreement))
    assert "share of the teacher" in page.lower()
    assert page.count("survival@") == 3


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
class TestInABrowser:
    def dump(self, tmp_path, page: str, script: str) -> str:
        """The document after the page's script and `script` have run."""
        check = (
            "<script>window.onerror = (m) => document.title = 'error: ' + m;</script>"
        )
        end = f"<script>{script}</script></body>"
        page = page.replace("</title>", "</title>" + check).replace("</body>", end)
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        command = [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/page.html",
        ]  # fmt: skip
        return subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=True
        ).stdout

    def test_the_examples_can_be_searched(self, tmp_path, page):
        script = "search.value = 'USER 7'; search.dispatchEvent(new Event('input'));"
        found = self.dump(tmp_path, page, script)
        assert "<title>movielens: distillation report</title>" in found
        assert "1 of 1 queries" in found
        shown = re.findall(r'<article class="query"(?! hidden)', found)
        assert len(shown) == 1

    def test_all_examples_are_shown_on_request(self, tmp_path, page):
        assert "5 of 8 queries" in self.dump(tmp_path, page, "")
        found = self.dump(tmp_path, page, "all.click()")
        assert "8 of 8 queries" in found
        assert found.count('class="hit"') == 8 * 2  # B: in two lists of each query
