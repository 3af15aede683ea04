"""``stream_ft.json`` in an adapter folder: what the folder is, where it came from, and why the gate let it pass."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from typing import Any

import msgspec
from msgspec import Struct

from stream_ft.errors import ArtifactError

NAME = "stream_ft.json"
SCHEMA_VERSION = 1
PACKAGES = ("stream-ft", "torch", "transformers", "peft", "numpy", "safetensors")


class File(Struct, frozen=True, kw_only=True):
    """One file of the folder."""

    sha256: str
    size: int
    """Bytes."""


class Manifest(Struct, frozen=True, kw_only=True):
    """How a base came to be. Its own version name is on the control log, given when it is promoted."""

    schema_version: int
    parent: str
    """sha256 of the base it was trained from; empty for the first."""
    base_model: str
    """Name of the pretrained model it changes."""
    base_model_sha256: str
    method: str
    examples_upto: int
    """Every retained example with a store sequence number up to this was available to the training."""
    offsets: dict[str, int]
    """Per topic, the offset before which every event is covered by ``examples_upto``."""
    verdict: dict[str, Any]
    """The gate's numbers."""
    seed: int
    created: float
    """Seconds since the epoch."""
    files: dict[str, File]
    """Every other file of the folder."""
    software: dict[str, str]
    signature: str | None = None


def manifest_file(
    files: Mapping[str, bytes],
    *,
    parent: str,
    base_model: str,
    base_model_sha256: str,
    method: str,
    examples_upto: int,
    offsets: Mapping[str, int],
    verdict: Mapping[str, object],
    seed: int,
    created: float,
) -> dict[str, bytes]:
    """The manifest of ``files``, as one more file to put beside them. Arguments as in :class:`Manifest`."""
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        parent=parent,
        base_model=base_model,
        base_model_sha256=base_model_sha256,
        method=method,
        examples_upto=examples_upto,
        offsets=dict(offsets),
        verdict=dict(verdict),
        seed=seed,
        created=created,
        files={name: _describe(files[name]) for name in sorted(files) if name != NAME},
        software=_software(),
    )
    return {NAME: msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"}


def check(files: Mapping[str, bytes]) -> Manifest:
    """The manifest of a folder, once every file of it was found as the manifest says.

    Raises:
        ArtifactError: ``manifest``: there is none, it cannot be read, or a file is there that it does not list;
            ``missing``: a file that it lists is not there; ``hash``: a file has another size or content.
    """
    if NAME not in files:
        raise ArtifactError("manifest", f"The adapter folder has no {NAME}.")
    try:
        manifest = msgspec.json.decode(files[NAME], type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError("manifest", f"{NAME} cannot be read: {error}.") from error
    if manifest.schema_version > SCHEMA_VERSION:
        raise ArtifactError(
            "manifest",
            f"{NAME} is of schema version {manifest.schema_version}; this release reads up to {SCHEMA_VERSION}.",
            "Upgrade stream_ft.",
        )
    if missing := manifest.files.keys() - files.keys():
        raise ArtifactError("missing", f"{sorted(missing)[0]} is listed in {NAME} and not in the folder.")
    if unlisted := files.keys() - manifest.files.keys() - {NAME}:
        raise ArtifactError("manifest", f"{sorted(unlisted)[0]} is in the folder and not listed in {NAME}.")
    for name, listed in manifest.files.items():
        if listed != _describe(files[name]):
            raise ArtifactError("hash", f"{name} is not the file that {NAME} describes.")
    return manifest


def _describe(data: bytes) -> File:
    return File(sha256=sha256(data).hexdigest(), size=len(data))


def _software() -> dict[str, str]:
    """Versions, read from the installed packages' metadata: nothing is imported."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
