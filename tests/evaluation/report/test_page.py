"""The report page: complete, self-contained, and safe with any names in the data."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from recdistill.distillation.score_doctor import examine
from recdistill.evaluation.intervals import Interval
from recdistill.evaluation.report.page import render_page
from recdistill.evaluation.report.page_charts import forest
from recdistill.evaluation.report.page_details import (
    PageDetails,
    QueryExample,
    TrainingRun,
)
from recdistill.evaluation.report.page_figures import figures
from recdistill.evaluation.report.run_report import (
    GuardedSlice,
    GuardPart,
    RetrievalPart,
)
from tests.evaluation.report.example_reports import (
    METRICS,
    NO_GAP,
    SOFT_TARGETS,
    model_part,
    report,
    retrieved,
)

pytestmark = pytest.mark.slow

HOSTILE = 'Film </script><b onclick="x">"1" & Söhne ✓'
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def example(query: str, chosen: str = "B") -> QueryExample:
    top = {"teacher": [HOSTILE, "B"], "distilled": ["B", "C"], "baseline": ["D"]}
    return QueryExample(query, ["H1", "H2"], [chosen], top, 0.5)


def training_run(name, *validation) -> TrainingRun:
    curve = {
        "step": [50, 100],
        "loss": [3.25, None],
        "relevance_loss": [4.5, 4.0],
        "distillation_loss": [2.0, 1.5],
        "learning_rate": [0.01, 0.005],
        "gradient_norm": [7.5, 6.5],
    }
    return TrainingRun(name, validation, 50, curve)


def details(**changes) -> PageDetails:
    scores = np.random.default_rng(1).normal(size=(20, 60))
    training = {
        "baseline": [training_run("learning rate 0.01", 0.1, 0.3)],
        "distilled": [
            training_run("learning rate 0.01", 0.2, 0.4),
            training_run("learning rate 3", None),
        ],
        "teacher": [training_run("ranker", 0.3, 0.5)],
    }
    examples = [example(f"user {number}") for number in range(7)]
    fields = {
        "training": training,
        "examination": json.loads(
            examine(scores, np.ones(scores.shape, bool)).model_dump_json()
        ),
        "examples": [*examples, example("user 7", "A")],
        "variants": {"student.dim=64": report().models["distilled"]},
    }
    return PageDetails(**(fields | changes))


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
    return render_page(full_report(), details())


def full_report(**changes):
    """A report with everything that the page can show."""
    unknown = {"test": {"history": 0.25, "age": 0.0}}
    dataset = report().dataset.model_copy(update={"unknown": unknown})
    fields = {"soft_targets": SOFT_TARGETS, "dataset": dataset, "guard": guard(0.03)}
    return report(**(fields | changes))


def guard(p):
    """A guard whose one slice, that of the report, has this corrected p-value."""
    cold = GuardedSlice(
        kind="query",
        name="cold",
        lists=3,
        queries=2,
        baseline=0.42,
        distilled=0.4,
        difference=Interval(-0.02, -0.03, -0.01),
        change=-0.05,
        adjusted_p=p,
        fallen=False,
    )
    return GuardPart(metric="mrr", largest_fall=0.1, slices=(cold,))


def text_of(page: str) -> str:
    """The text of a page, without markup, with single spaces."""
    body = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body))


def test_the_verdict_and_all_numbers_of_the_report_are_on_the_page(page):
    text = text_of(page)
    assert "<h1>By NDCG@10, distillation closed 48% [21%, 71%] of the gap" in page
    assert "0.091 0.081 to 0.107" in text
    assert NO_GAP in text
    assert "the teacher is better by 0.02" in text
    assert "ab12" in text
    assert "&#34;dim&#34;: 32" in page
    # Data by part: lists, dates, repeats and duplicates.
    assert "train 9,000 1997-09-20 1998-03-01 - 8" in text
    assert "test 943 - - 77 1" in text
    assert "history 25.0%" in text
    # A slice with its counts and its loss against the baseline.
    assert "cold 3 2" in text
    assert "▼ -0.020 -0.030 to -0.010" in text.replace("\N{MINUS SIGN}", "-")
    assert "worse beyond noise on: query cold." in page


def test_a_slice_is_worse_by_the_corrected_p_and_not_by_its_interval():
    noise = render_page(full_report(guard=guard(0.06)))
    assert "The student is not worse beyond noise on any slice." in noise
    assert "▼ <" not in noise and "▼ \N{MINUS SIGN}" not in noise
    assert "None of 1 slice has fallen." in noise
    unknown = render_page(full_report(guard=None))
    assert "beyond noise on" not in unknown
    drawn = forest("query", {"cold": Interval(-0.02, -0.03, -0.01)}, [])
    assert "var(--bad)" not in drawn
    assert "var(--bad)" in forest("q", {"cold": Interval(-0.02, -0.03, 0.0)}, ["cold"])


def test_sections_are_well_formed_and_in_the_navigation(page):
    found = Elements(page)
    sections = [attributes["id"] for tag, attributes in found.tags if tag == "section"]
    assert sections == [
        "quality", "tradeoff", "slices", "examples", "agreement", "latency",
        "training", "scores", "data", "reproduce",
    ]  # fmt: skip
    links = [attributes["href"] for tag, attributes in found.tags if tag == "a"]
    assert links == [f"#{anchor}" for anchor in sections]


def test_every_chart_has_alternative_text_and_its_numbers(page):
    found = Elements(page).tags
    charts = [a["aria-label"] for tag, a in found if a.get("role") == "img"]
    assert len(charts) == sum(tag == "figure" for tag, _ in found) == 6
    assert "teacher 0.102 [0.092, 0.118]" in charts[0]
    assert "Student: NDCG@10 0.091 [0.081, 0.107] at 0.43 ms" in charts[1]
    assert "teacher, 1,000 candidates: median 41.2 ms" in charts[3]
    assert "distilled: best NDCG@10 0.4000 on validation" in charts[4]
    assert "Effective number of candidates" in charts[5]
    rows = figures(full_report(), details())["training"].numbers
    assert list(rows.rows[0]) == [
        "baseline, learning rate 0.01", "50", "3.25", "4.5", "2", "7.5", "0.01", "0.1",
    ]  # fmt: skip
    assert rows.rows[1][2] == "-"


def test_nothing_is_loaded_from_outside(page):
    for tag, attributes in Elements(page).tags:
        assert tag not in {"img", "iframe", "object", "embed"}
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    assert "default-src 'none'" in page
    assert not re.search(r"url\((?!#)|@import", page)


def test_names_from_the_data_cannot_become_markup(page):
    data = re.search(r'id="examples-data">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)[0]["top"]["teacher"][0] == HOSTILE
    named = render_page(full_report(name=HOSTILE), details())
    assert "<b onclick" not in named
    assert len(Elements(named).tags) == len(Elements(page).tags)


def test_the_same_report_gives_the_same_page(page):
    assert render_page(full_report(), details()) == page


def test_parts_without_numbers_are_left_out():
    bare = report(
        models={}, gap_closed={}, kept={}, differences={}, agreement={}, speedup={},
        gate=None, slice_differences={},
    )  # fmt: skip
    sections = re.findall(r'<section id="(\w+)"', render_page(bare))
    assert sections == ["data", "reproduce"]


def test_a_run_without_latency_says_so():
    untimed = report(
        models={"baseline": model_part(0.1), "distilled": model_part(0.2)}, speedup={}
    )
    page = render_page(untimed)
    assert "; latency was not measured.</h1>" in page
    assert "as fast as the teacher at" not in page
    assert "Latency was not measured:" in page
    assert '<section id="tradeoff"' not in page


def test_a_teacher_that_was_not_timed_is_a_line_in_the_chart():
    models = report().models
    untimed = {**models, "teacher": model_part(0.102)}
    alone = report(models=untimed, speedup={})
    assert "timed in turns" not in render_page(alone)
    assert "both models timed in turns" in render_page(report())
    chart = figures(alone, PageDetails())["tradeoff"]
    assert list(chart.numbers.rows[-1]) == ["teacher", "0.102 [0.092, 0.118]", "-", "-"]
    assert "Teacher (not timed)" in chart.panels[0]


def test_the_speed_is_that_of_the_headline():
    page = render_page(report(speedup={"1000": 9.0, "20": 30.0}))
    sign = "\N{MULTIPLICATION SIGN}"
    assert f"<b>9{sign}</b><span>as fast as the teacher at 1,000 candidates" in page
    assert "ranks 1,000 candidates 9 times as fast" in page


def test_training_that_diverged_is_noted():
    models = report().models
    late = models["distilled"].model_copy(update={"diverged": (0.1,)})
    page = render_page(report(models={**models, "distilled": late}), details())
    assert "The distilled student diverged with learning rate 0.1;" in page


def test_the_candidates_are_named_as_in_the_receipt():
    listed = report(
        protocol=report().protocol.model_copy(update={"candidates": "listed"})
    )
    assert "Ranked: candidates of each list; seen items" in render_page(listed)


def test_survival_is_drawn_where_it_has_several_points():
    agreement = {f"survival@{n}": Interval(n / 200, 0.2, 1.0) for n in (50, 100, 200)}
    page = render_page(report(agreement=agreement))
    assert "Survival curve. at 50: 25.0%, at 100: 50.0%, at 200: 100.0%." in page


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
class TestInABrowser:
    """Chromium opens the page and writes its log; nothing may be wrong in either."""

    CHECK = """<script>
    const faults = [];
    addEventListener("error", (event) => faults.push(event.message));
    for (const level of ["error", "warn"]) {
      console[level] = (...words) => faults.push(words.join(" "));
    }
    addEventListener("securitypolicyviolation", (e) => faults.push(e.blockedURI));
    </script>"""
    STATES = """const states = [], note = () => states.push([
      shown.textContent, document.querySelectorAll(".query:not([hidden])").length,
    ]); note();"""
    REPORT = """<script>
    const requests = performance.getEntriesByType("resource").map((each) => each.name);
    document.title = JSON.stringify({
      faults, requests, states,
      wide: document.documentElement.scrollWidth > innerWidth,
    });
    </script></body>"""

    def title_of(self, tmp_path, document: str):
        """The title of a document after its scripts have run, read as JSON."""
        (tmp_path / "page.html").write_text(document, encoding="utf-8")
        command = [
            BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu",
            "--disable-background-networking", "--dump-dom", "--enable-logging=stderr",
            "--window-size=1280,900", f"--user-data-dir={tmp_path / 'profile'}",
            f"file://{tmp_path}/page.html",
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, check=True
        )
        assert "CONSOLE" not in done.stderr, done.stderr
        title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]
        return json.loads(html.unescape(title))

    def test_search_and_explorer_respond_and_nothing_leaves_the_page(
        self, tmp_path, page
    ):
        def choose(name):
            return f"kind.value = '{name}'; kind.dispatchEvent(new Event('change'))"

        def find(text, name):
            words = json.dumps(text)
            sought = f"search.value = {words}; search.dispatchEvent(new Event('input'))"
            return f"{choose(name)}; {sought}"

        actions = [
            "search.value = 'USER 7'; search.dispatchEvent(new Event('input'))",
            "search.value = ''; search.dispatchEvent(new Event('input')); all.click()",
            choose("missed"),
            choose("won"),
            choose("lost"),
            find('onclick="x"', "all"),
            find("teacher", "all"),
        ]
        steps = "".join(f"{action}; note();" for action in actions)
        script = f"<script>{self.STATES}{steps}</script>{self.REPORT}"
        found = self.title_of(
            tmp_path,
            page.replace("<title>", f"{self.CHECK}<title>", 1).replace(
                "</body>", script
            ),
        )
        assert found["states"] == [
            ["5 of 8 queries", 5],
            ["1 of 1 queries", 1],
            ["8 of 8 queries", 8],
            ["1 of 1 queries", 1],
            ["7 of 7 queries", 7],
            ["0 of 0 queries", 0],
            ["8 of 8 queries", 8],
            ["0 of 0 queries", 0],
        ]
        assert found["faults"] == found["requests"] == []
        assert not found["wide"]

    def test_the_page_is_no_wider_than_a_phone(self, tmp_path, page):
        content = json.dumps(page).replace("<", "\\u003c")
        measured = self.title_of(
            tmp_path,
            f"""<title></title><iframe id="phone" width="380" height="800"></iframe>
            <script>
            phone.onload = () => {{
              const root = phone.contentDocument.documentElement;
              document.title = JSON.stringify([root.clientWidth, root.scrollWidth]);
            }};
            phone.srcdoc = {content};
            </script>""",
        )
        assert measured[1] == measured[0] > 300


def test_the_survival_curve_of_the_positives_is_drawn_and_told_in_words():
    figure = figures(retrieved(), details())["retrieval"]
    assert len(figure.panels) == 1
    assert "at 50: 51.0% [50.0%, 52.0%]" in figure.alternative
    assert "at 200: 83.0% [82.0%, 84.0%]" in figure.alternative
    assert figure.alternative in html.unescape(render_page(retrieved(), details()))
    assert "retrieval" not in figures(report(), details())


def test_the_retrieval_is_on_the_page_and_in_the_receipt():
    shares = {"10": Interval(0.61, 0.6, 0.62), "200": Interval(0.925, 0.92, 0.93)}
    values = {name: Interval(0.1234, 0.1, 0.2) for name in METRICS}
    found = RetrievalPart(
        candidates=431.4, recall=shares, catalogue={"baseline": values}
    )
    protocol = report().protocol.model_copy(update={"candidates": "retrieved:200"})
    page = render_page(report(protocol=protocol, retrieval=found))
    assert "Ranked: the top 200 of each retriever, not the full catalogue" in page
    assert "first 200 items hold 92.5% of the positives" in page
    assert "431 items of a list on average" in page
    assert "<td>61.0%</td><td>92.5%</td>" in page
    assert "<td>0.1234</td>" in page
    assert "<h3>Retrieval</h3>" not in render_page(report())


@pytest.mark.parametrize("name", ["$$", "A$$", "$5 to $10"])
def test_names_with_dollar_signs_are_no_formulas(name):
    assert name in forest("price", {name: Interval(0.1, 0.05, 0.2)}, [])


def test_characters_that_no_font_here_has_are_drawn_without_a_warning():
    # A warning would be an error in the tests.
    name = "\N{HIRAGANA LETTER NO}"
    assert name in forest("price", {name: Interval(0.1, 0.05, 0.2)}, [])
