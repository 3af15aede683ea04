"""The manifest of an adapter folder: it says what is there, and refuses a folder that says otherwise."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from stream_ft.errors import ArtifactError
from stream_ft.release.manifest import NAME, check, manifest_file

FILES = {"adapter_config.json": b"{}", "head.safetensors": b"0123"}


def signed_off(files: dict[str, bytes] = FILES) -> dict[str, bytes]:
    return files | manifest_file(
        files,
        parent="a" * 64,
        base_model="sentence-transformers/all-MiniLM-L6-v2",
        base_model_sha256="b" * 64,
        method="lora",
        examples_upto=400,
        offsets={"stream_ft.demo.labels": 512},
        verdict={"accepted": True, "difference": 0.04},
        seed=7,
        created=1.5,
    )


def refusal(files: dict[str, bytes]) -> str:
    with pytest.raises(ArtifactError) as caught:
        check(files)
    return caught.value.step


def test_what_was_written_is_read() -> None:
    manifest = check(signed_off())
    assert (manifest.parent, manifest.method, manifest.seed) == ("a" * 64, "lora", 7)
    assert (manifest.examples_upto, manifest.offsets) == (400, {"stream_ft.demo.labels": 512})
    assert manifest.verdict == {"accepted": True, "difference": 0.04}
    assert set(manifest.files) == set(FILES)
    assert manifest.files["head.safetensors"].size == 4


def test_it_is_a_file_of_its_own_that_a_person_can_read() -> None:
    made = manifest_file(
        FILES, parent="", base_model="m", base_model_sha256="", method="full", examples_upto=0, offsets={}, verdict={},
        seed=0, created=0.0,
    )  # fmt: skip
    assert list(made) == [NAME]
    assert made[NAME].count(b"\n") > 10
    assert json.loads(made[NAME])["software"].keys() >= {"python", "stream-ft", "numpy", "torch"}


def test_making_it_again_describes_the_files_and_not_the_manifest_before() -> None:
    assert signed_off(signed_off())[NAME] == signed_off()[NAME]


@pytest.mark.parametrize(
    ("change", "step"),
    [
        ({"head.safetensors": b"0124"}, "hash"),
        ({"head.safetensors": b"012"}, "hash"),
        ({"head.safetensors": b"01234"}, "hash"),
        ({"head.safetensors": None}, "missing"),
        ({"evil.bin": b""}, "manifest"),
        ({NAME: None}, "manifest"),
        ({NAME: b""}, "manifest"),
        ({NAME: b"\xff"}, "manifest"),
        ({NAME: b"[" * 100_000}, "manifest"),
        ({NAME: b"{}"}, "manifest"),
    ],
)
def test_a_folder_that_is_not_as_the_manifest_says_is_refused(change: dict[str, bytes | None], step: str) -> None:
    files = {name: data for name, data in (signed_off() | change).items() if data is not None}
    assert refusal(files) == step


@pytest.mark.parametrize(
    ("field", "value"),
    [("schema_version", 2), ("schema_version", "1"), ("files", []), ("seed", 1.5), ("verdict", None), ("parent", 5)],
)
def test_a_manifest_of_another_shape_is_refused(field: str, value: Any) -> None:
    files = signed_off()
    files[NAME] = json.dumps(json.loads(files[NAME]) | {field: value}).encode()
    assert refusal(files) == "manifest"


def test_fields_of_a_later_release_are_ignored() -> None:
    files = signed_off()
    files[NAME] = json.dumps(json.loads(files[NAME]) | {"colour": "green"}).encode()
    assert check(files) == check(signed_off())


def test_the_release_modules_import_no_torch() -> None:
    code = (
        "import sys; from stream_ft import control, schemas; "
        "from stream_ft.release import explain, fold, manifest, registry, state_file; "
        "manifest.manifest_file({}, parent='', base_model='', base_model_sha256='', method='', examples_upto=0, "
        "offsets={}, verdict={}, seed=0, created=0.0); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
