"""progress_display: bars in a terminal, lines without one, nothing with --json."""

import io
import re

import pytest
from rich.console import Console

from recdistill.cli import progress_display
from recdistill.cli.progress_display import Display


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def printed(console):
    return console.file.getvalue()


def test_without_a_terminal_each_activity_has_one_line_at_its_start(console):
    with Display(False, console) as display:
        for done in range(3):
            display.progress("Reading interactions", done, None)
        display.progress("Distilling", 0, 100)
        display.progress("Distilling", 20, 100)
    assert printed(console) == "  Reading interactions …\n  Distilling …\n"


def test_a_later_line_has_the_share_the_time_left_and_the_validation_metric(console):
    with Display(False, console) as display:
        display.progress("Distilling", 0, 100)
        display.progress("Distilling", 20, 100, "ndcg@10 0.2312 on validation")
        display.progress("Distilling", 40, 100)
        display.print_state()
    line = printed(console).splitlines()[-1]
    time = r"(about [\d.]+ (s|min|h) left|\d+ s so far)"
    metric = "ndcg@10 0.2312 on validation"
    assert re.fullmatch(rf"  Distilling: 40 %, {time}, {metric}", line)


def test_an_activity_of_unknown_length_shows_the_time_so_far(console):
    with Display(False, console) as display:
        display.progress("Exporting the student", 0, None)
        display.print_state()
    line = printed(console).splitlines()[-1]
    assert re.fullmatch(r"  Exporting the student: \d+ s so far", line)


def test_lines_are_repeated_while_an_activity_does_not_report(console, monkeypatch):
    monkeypatch.setattr(progress_display, "LINE_EVERY_S", 0.0)
    with Display(False, console) as display:
        display.progress("Exporting the student", 0, None)
        while len(printed(console).splitlines()) < 2:
            display._ended.wait(0.01)
    assert "  Exporting the student: " in printed(console)


def test_between_activities_there_is_no_line(console):
    with Display(False, console) as display:
        display.progress("Distilling", 0, 100)
        display.clear()
        display.print_state()
    assert printed(console) == "  Distilling …\n"


def test_a_terminal_gets_a_bar_and_no_line_of_its_own_for_an_activity():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with Display(False, console) as display:
        display.progress("Distilling [half]", 50, 100, "ndcg@10 0.2312")
        display._bar.refresh()
    assert "Distilling [half]" in printed(console)
    assert "━" in printed(console)
    assert "50 %" in printed(console)
    assert "ndcg@10 0.2312" in printed(console)
    assert " …\n" not in printed(console)


def test_a_command_that_prints_json_shows_warnings_only(console):
    with Display(True, console) as display:
        display.progress("Distilling", 50, 100)
        display.say("Trial 1")
        display.print_state()
        display.warn("The teacher is not better.")
    assert printed(console) == "Note: The teacher is not better.\n"
