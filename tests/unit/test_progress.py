"""Progress where there is no terminal: a line now and then, so that a log shows life."""

from __future__ import annotations

import pytest

from stream_ft.cli import _bar


def test_a_line_after_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    with _bar() as tell:
        for done in range(1, 101):
            tell(done, 100, done / 200)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "10 of 100 events, accuracy 0.050"
    assert lines[-1] == "100 of 100 events, accuracy 0.500"


def test_nothing_is_told_of_a_length_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with _bar() as tell:
        tell(50, None, 0.5)
    assert capsys.readouterr().err == ""
