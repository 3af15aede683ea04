from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from stream_ft import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield io.StringIO()
    root.setLevel(level)
    for handler in list(root.handlers):
        if handler not in handlers:
            root.removeHandler(handler)


def test_a_line_for_a_person(stream: io.StringIO) -> None:
    logs.setup("info", stream=stream)
    logging.getLogger("stream_ft.serve").info("%s answers", "v1.1.0", extra=logs.fields(epoch=1))
    line = stream.getvalue()
    assert line.endswith("info serve: v1.1.0 answers epoch=1\n")
    assert line[2] == line[5] == ":"


def test_a_line_for_a_machine(stream: io.StringIO) -> None:
    logs.setup("info", json_lines=True, stream=stream)
    logging.getLogger("stream_ft.serve").warning("退货 %d", 7, extra=logs.fields(epoch=1, path=object))
    line = json.loads(stream.getvalue())
    assert (line["level"], line["logger"], line["message"], line["epoch"]) == (
        "warning",
        "stream_ft.serve",
        "退货 7",
        1,
    )
    assert isinstance(line["time"], float)


@pytest.mark.parametrize("json_lines", [False, True])
def test_an_exception_is_a_type_and_a_place_never_its_words(stream: io.StringIO, json_lines: bool) -> None:
    logs.setup("info", json_lines=json_lines, stream=stream)
    try:
        raise ValueError("my card is 4711")
    except ValueError as error:
        logging.getLogger("stream_ft.x").error("it failed", exc_info=error)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert "ValueError" in text
    assert "test_logs.py" in text
    assert "4711" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize("json_lines", [False, True])
@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\u2028b", "a\x85b"])
def test_nobody_can_forge_a_second_line(stream: io.StringIO, json_lines: bool, text: str) -> None:
    logs.setup("info", json_lines=json_lines, stream=stream)
    logging.getLogger("stream_ft.x").info("said %s", text, extra=logs.fields(reason=text))
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_levels(stream: io.StringIO) -> None:
    logs.setup("warning", stream=stream)
    logging.getLogger("stream_ft.x").info("quiet")
    logging.getLogger("stream_ft.x").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_setting_up_twice_says_everything_once(stream: io.StringIO) -> None:
    logs.setup("info", stream=stream)
    logs.setup("info", json_lines=True, stream=stream)
    logging.getLogger("stream_ft.x").info("once")
    assert stream.getvalue().count("once") == 1


def test_libraries_are_quieter_than_we_are(stream: io.StringIO) -> None:
    logs.setup("info", stream=stream)
    logging.getLogger("httpx").info("GET http://...?text=secret")
    logging.getLogger("uvicorn.access").info("POST /predict")
    assert stream.getvalue() == ""
