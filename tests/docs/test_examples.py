"""Documentation: the Python examples of a page run unchanged and in order.

A page takes part if it contains the comment `<!-- runnable -->`. Its fenced blocks that
start with ```python are one program, which runs in an empty folder.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARKER = "<!-- runnable -->"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def runnable_pages(root):
    """Pages of the documentation with the marker, and the README."""
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [
        page
        for page in pages
        if page.exists() and MARKER in page.read_text(encoding="utf-8").splitlines()
    ]


def python_blocks(text):
    """Python blocks of a page, each after as many empty lines as precede it there."""
    return [
        "\n" * text.count("\n", 0, found.start(1)) + found.group(1)
        for found in BLOCK.finditer(text)
    ]


def run_page(page):
    """Run the blocks of a page in one namespace; a traceback shows the page's lines."""
    namespace = {"__name__": "__main__"}
    for block in python_blocks(page.read_text(encoding="utf-8")):
        exec(compile(block, str(page), "exec"), namespace)
    return namespace


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.stem) for page in runnable_pages(ROOT)]
)
def test_the_python_examples_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page)


def test_the_page_for_keras_users_is_among_the_pages():
    assert ROOT / "docs" / "keras.md" in runnable_pages(ROOT)


PAGE = """
# A page
```python
first = 1
```
```toml
[not python]
```
    ```python
    indented = "part of another block"
    ```
```python
second = first + 1
```
"""


def test_blocks_share_a_namespace_and_other_languages_are_skipped(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    namespace = run_page(page)
    assert (namespace["first"], namespace["second"]) == (1, 2)
    assert "indented" not in namespace


def test_an_error_is_reported_with_the_line_of_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("first + 1", "1 / 0"))
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(page)
    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("page.md", 13)


def test_only_pages_with_the_marker_on_a_line_of_its_own_take_part(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"{MARKER}\n")
    (tmp_path / "docs" / "one.md").write_text(f"# One\n{MARKER}\n")
    (tmp_path / "docs" / "two.md").write_text(f"The comment `{MARKER}` marks a page.\n")
    assert [page.name for page in runnable_pages(tmp_path)] == ["README.md", "one.md"]
