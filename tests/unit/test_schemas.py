"""The published schemas: committed as they are, true to the decoder, and still reading what was once written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from jsonschema import Draft202012Validator

from stream_ft import control
from stream_ft.events import Event
from stream_ft.schemas import export, render, schemas
from stream_ft.serve import openapi

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "schemas"
PAYLOADS = [
    (path.stem, text)
    for path in sorted((ROOT / "tests" / "docs" / "payloads_v1").glob("*.jsonl"))
    for text in path.read_text(encoding="utf-8").splitlines()
]
REGENERATE = "write them again: .venv/bin/python -m stream_ft.schemas docs/schemas"


def decode(name: str, data: bytes) -> msgspec.Struct:
    """As the family's own decoder does."""
    if name.startswith("control."):
        message = control.decode(data)
        if isinstance(message, control.Malformed):
            raise msgspec.ValidationError(message.reason)
        return message
    event: msgspec.Struct = msgspec.json.decode(data, type=Event)
    return event


def test_the_committed_schemas_are_those_of_the_code() -> None:
    expected = {**schemas(), "openapi": openapi.describe()}
    assert {path.stem for path in COMMITTED.glob("*.json")} == set(expected), REGENERATE
    for name, schema in expected.items():
        assert (COMMITTED / f"{name}.json").read_text(encoding="utf-8") == render(schema), REGENERATE


def test_export_writes_each_schema(tmp_path: Path) -> None:
    written = export(tmp_path / "new")
    assert {path.stem for path in written} == {*schemas(), "openapi"}
    for path in written:
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["openapi"] if path.stem == "openapi" else content["$id"].endswith(path.stem)


def test_every_event_and_control_message_has_a_schema() -> None:
    assert len(schemas()) == len(get_args(Event)) + len(get_args(control.Message)) == 17


@pytest.mark.parametrize("name", schemas())
def test_each_is_a_valid_schema(name: str) -> None:
    Draft202012Validator.check_schema(schemas()[name])


def test_every_type_has_an_old_payload() -> None:
    assert {name for name, _ in PAYLOADS} == set(schemas())


@pytest.mark.parametrize(("name", "text"), PAYLOADS)
def test_what_version_1_wrote_is_still_read_and_still_valid(name: str, text: str) -> None:
    decoded = decode(name, text.encode())
    assert decoded.__struct_config__.tag == name.partition(".")[2]
    validator = Draft202012Validator(schemas()[name])
    validator.validate(json.loads(text))
    written = json.loads(msgspec.json.encode(decoded))
    validator.validate(written)
    given: dict[str, Any] = json.loads(text)
    assert {key: written.get(key) for key in given if key in written} == {
        k: v for k, v in given.items() if k in written
    }
    assert decode(name, json.dumps(written).encode()) == decoded


@pytest.mark.parametrize(("name", "text"), PAYLOADS)
def test_schema_and_decoder_require_the_same_fields(name: str, text: str) -> None:
    validator = Draft202012Validator(schemas()[name])
    whole = json.loads(text)
    for field in whole:
        less = {key: value for key, value in whole.items() if key != field}
        valid = validator.is_valid(less)
        try:
            decode(name, json.dumps(less).encode())
            read = True
        except msgspec.ValidationError:
            read = False
        assert read == valid, field


@pytest.mark.parametrize(("name", "text"), PAYLOADS)
def test_schema_and_decoder_refuse_the_same_types(name: str, text: str) -> None:
    validator = Draft202012Validator(schemas()[name])
    for field, wrong in [(key, value) for key in json.loads(text) for value in ([], {}, True)]:
        if (name, field) in {("control.genesis", "keys"), ("control.rollback", "automatic")}:
            continue
        changed = json.dumps(json.loads(text) | {field: wrong}).encode()
        if field == "quarantine" and wrong == {}:
            decode(name, changed)
            continue
        assert not validator.is_valid(json.loads(changed)), field
        with pytest.raises(msgspec.ValidationError):
            decode(name, changed)
