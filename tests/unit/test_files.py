"""A user's file, as people have them: what is read, and what is said of what cannot be."""

from __future__ import annotations

import contextlib
import csv
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.connectors.files import Row, guess_columns, read_rows
from stream_ft.errors import ConfigError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pairs(rows: list[Row]) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in rows]


GOOD = [("hello, world", "greet"), ("bye", "leave")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"hello, world",greet\nbye,leave\n'),
        ("a.csv", 'label,other,text\r\ngreet,1,"hello, world"\r\nleave,2,bye'),
        ("a.csv", "text;label\nhello, world;greet\nbye;leave\n"),
        ("a.csv", "text|label\nhello, world|greet\nbye|leave\n"),
        ("a.csv", "text\tlabel\nhello, world\tgreet\nbye\tleave\n"),
        ("a.csv", '\n\n text , label \n"hello, world",greet\n\n  \nbye,leave\n\n'),
        ("a.csv", b"\xef\xbb\xbf" + b'text,label\n"hello, world",greet\nbye,leave\n'),
        ("a.csv", 'text,label\n"hello, world",greet\nbye,leave\n'.encode("utf-16")),
        ("a.tsv", "text\tlabel\nhello, world\tgreet\nbye\tleave\n"),
        ("a.tsv", 'text\tlabel\r\n"hello, world"\tgreet\r\nbye\tleave\r\n'),
        ("a.txt", "text\tlabel\nhello, world\tgreet\nbye\tleave\n"),
        ("a.jsonl", '{"text": "hello, world", "label": "greet"}\n\n{"label": "leave", "text": "bye", "x": [1]}\n'),
        ("a.json", '[{"text": "hello, world", "label": "greet"}, {"text": "bye", "label": "leave"}]'),
    ],
)
def test_what_is_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = written(tmp_path, name, content)
    assert pairs(read_rows(path, text_column="text", label_column="label")) == GOOD
    guess = guess_columns(path)
    assert (guess.text_column, guess.label_column) == ("text", "label")


def test_columns_by_number_of_a_file_without_a_header(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "greet\thello, world\nleave\tbye\n")
    assert pairs(read_rows(path, text_column="1", label_column="0")) == GOOD


def test_a_number_beside_a_name_counts_below_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "kind,what\ngreet,hi\n")
    assert pairs(read_rows(path, text_column="what", label_column="0")) == [("hi", "greet")]


def test_a_number_that_is_a_name_is_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "1,0\nhi,greet\n")
    assert pairs(read_rows(path, text_column="1", label_column="0")) == [("hi", "greet")]


def test_a_phase(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label,part\nhi,greet,one\nbye,leave,two\n")
    rows = read_rows(path, text_column="text", label_column="label", phase_column="part")
    assert [row.phase for row in rows] == ["one", "two"]
    assert [row.phase for row in read_rows(path, text_column="text", label_column="label")] == ["", ""]


def test_quotes_in_a_tsv_are_text(tmp_path: Path) -> None:
    content = 'spam\tthe new "Doll"?\nham\tfor u?"\nham\t"two ""words"" here"\nham\t"a" and "b"\n'
    rows = read_rows(written(tmp_path, "a.tsv", content), text_column="1", label_column="0")
    assert [row.text for row in rows] == ['the new "Doll"?', 'for u?"', 'two "words" here', '"a" and "b"']


def test_a_quoted_text_of_several_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,label\n"one\ntwo, ""three""",x\n')
    assert pairs(read_rows(path, text_column="text", label_column="label")) == [('one\ntwo, "three"', "x")]


def test_line_separators_of_unicode_stay_in_the_text(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "text\tlabel\none\u2028two\x85three\tx\n")
    assert pairs(read_rows(path, text_column="text", label_column="label")) == [("one\u2028two\x85three", "x")]


def test_empty_texts_and_labels_are_kept_for_ingest_to_refuse(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label\n,x\nhi,\n")
    assert pairs(read_rows(path, text_column="text", label_column="label")) == [("", "x"), ("hi", "")]


def test_json_values_that_are_no_text(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a", "label": 3}\n{"text": null, "label": true}\n{"label": "x"}\n')
    assert pairs(read_rows(path, text_column="text", label_column="label")) == [("a", "3"), ("", "true"), ("", "x")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", " \n\n", "is empty"),
        ("a.csv", "text,label\n", "has a header and no rows"),
        ("a.csv", "a,b\n1,2\n", r"no column 'text'.*'a', 'b'"),
        ("a.csv", "text,text,label\n1,2,3\n", "several columns 'text'"),
        ("a.csv", "text,label\nhi,x\nbye\n", "Line 3 of .* has 1 columns, not 2"),
        ("a.csv", "text,label\nhello, world,greet\n", "Line 2 of .* has 3 columns, not 2"),
        ("a.csv", 'text,label\n"open,x\nhi,y\n', "is not CSV.*quote"),
        ("a.csv", "text,label\ncaf\xe9,x\n".encode("latin-1"), r"not UTF-8: byte 14 \(line 2\)"),
        ("a.csv", "text,label\n".encode("utf-16") + b"\x00", "not UTF-16"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "Line 2 of .* is not JSON"),
        ("a.jsonl", "[" * 100_000, "is not JSON"),
        ("a.jsonl", '{"a":' * 100_000, "Line 1 of .* is not JSON"),
        ("a.jsonl", '{"text": "a"}\n3\n', "Row 2 of .* is not a JSON object"),
        ("a.json", "[]", "holds no fields"),
        ("a.json", '{"a": 1}', "no column 'text'"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        read_rows(path, text_column="text", label_column="label")
    assert caught.value.remedy


def test_a_number_beyond_the_columns(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "a,b\nc,d\n")
    with pytest.raises(ConfigError, match="has 2 columns; there is no column 2"):
        read_rows(path, text_column="2", label_column="0")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no file"):
        read_rows(tmp_path / "no.csv", text_column="text", label_column="label")
    with pytest.raises(ConfigError, match="is a folder"):
        read_rows(tmp_path, text_column="text", label_column="label")


# --- guesses -------------------------------------------------------------------------------------------------------

LABELS = ("greet", "leave", "order", "thank")


def test_names_are_guessed_whatever_their_case(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "ID,Utterance,Intent\n1,hi,greet\n2,bye,leave\n")
    guess = guess_columns(path)
    assert (guess.text_column, guess.label_column) == ("Utterance", "Intent")
    assert "by their names" in guess.why
    assert pairs(read_rows(path, text_column="Utterance", label_column="Intent")) == [("hi", "greet"), ("bye", "leave")]


@pytest.mark.parametrize("header", [True, False])
def test_columns_are_guessed_by_what_is_in_them(tmp_path: Path, header: bool) -> None:
    lines = [f"{i};{LABELS[i % 4]};{i % 2};a message with some words, number {i}" for i in range(40)]
    path = written(tmp_path, "a.csv", "\n".join((["nr;kind;flag;said"] if header else []) + lines))
    guess = guess_columns(path)
    assert (guess.text_column, guess.label_column) == (("said", "kind") if header else ("3", "1"))
    assert "4 values" in guess.why
    rows = read_rows(path, text_column=guess.text_column, label_column=guess.label_column)
    assert len(rows) == 40
    assert {row.label for row in rows} == set(LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one\ntwo\nthree\n", "has one column"),
        ("a,b\nc,d\n", "too few rows"),
        ("".join(f"text {i},unique {i}\n" for i in range(50)), "looks like a label"),
    ],
)
def test_a_guess_that_cannot_be_made(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        guess_columns(written(tmp_path, "a.csv", content))


DATA = os.environ.get("STREAM_FT_DATA", "")


@pytest.mark.skipif(not DATA, reason="STREAM_FT_DATA is not set")
@pytest.mark.parametrize(
    ("name", "columns", "count", "classes"),
    [("banking77/train.csv", ("text", "category"), 10_003, 77), ("sms_spam/sms.tsv", ("1", "0"), 5_574, 2)],
)
def test_public_files(name: str, columns: tuple[str, str], count: int, classes: int) -> None:
    guess = guess_columns(Path(DATA) / name)
    assert (guess.text_column, guess.label_column) == columns
    rows = read_rows(Path(DATA) / name, text_column=columns[0], label_column=columns[1])
    assert (len(rows), len({row.label for row in rows})) == (count, classes)


PUNCTUATION = '",;|\t\r\n ab[]{}:0'


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=200) | st.text(PUNCTUATION, max_size=40).map(str.encode),
    name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a"]),
)
def test_arbitrary_bytes_are_rows_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = written(tmp_path_factory.mktemp("any"), name, content)
    for read in (lambda: read_rows(path, text_column="0", label_column="1"), lambda: guess_columns(path)):
        with contextlib.suppress(ConfigError):
            assert read()


def test_lines_may_end_as_on_old_macs(tmp_path: Path) -> None:
    path = written(tmp_path, "mac.csv", b"text;label\rone;a\rtwo;b\r")
    assert [(row.text, row.label) for row in read_rows(path, text_column="text", label_column="label")] == [
        ("one", "a"), ("two", "b")
    ]  # fmt: skip


@pytest.mark.parametrize("content", [b'""', b",", b'"";""\n,\n', b'" "'])
def test_a_file_of_empty_cells_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, "a.csv", content)
    for read in (lambda: read_rows(path, text_column="0", label_column="1"), lambda: guess_columns(path)):
        with pytest.raises(ConfigError):
            read()


def test_a_text_longer_than_the_csv_module_allows_is_read(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = written(tmp_path, "long.csv", "text,label\n" + f"short,a\n{'long ' * 60_000},b\n")
    assert [len(row.text) for row in read_rows(path, text_column="text", label_column="label")] == [5, 300_000]
    assert csv.field_size_limit() == before


def test_a_long_text_does_not_hide_the_separator(tmp_path: Path) -> None:
    path = written(tmp_path, "long.csv", "text;label\n" + f"short;a\n{'long ' * 60_000};b\n")
    assert [row.label for row in read_rows(path, text_column="text", label_column="label")] == ["a", "b"]
