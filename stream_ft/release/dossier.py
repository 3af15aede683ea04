"""What a head says of itself: a small JSON object in the metadata of its safetensors file.

A head that is promoted under a base that does not change has no folder of its own; its dossier is what the manifest
is for a base: what it was trained on, and why the gate let it pass. It is part of the bytes that are hashed.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec import Struct

from stream_ft.errors import ArtifactError

KEY = "stream_ft.dossier"


class Dossier(Struct, frozen=True, kw_only=True):
    """How a version came to be."""

    kind: str = "genesis"
    """``genesis``, ``head`` or the method that trained the encoder."""
    examples_upto: int = 0
    """Every retained example with a store sequence number up to this was available to the training."""
    offsets: dict[str, int] = {}
    """Per topic, the offset before which every event is covered by ``examples_upto``."""
    train_examples: int = 0
    verdict: dict[str, Any] = {}
    """The gate's numbers; empty for the first head."""
    created: float = 0.0
    seed: int = 0


def stamp(head: bytes, dossier: Dossier) -> bytes:
    """``head`` (a safetensors file) with ``dossier`` in its metadata.

    Raises:
        ArtifactError: ``head`` is not a safetensors file.
    """
    header, body = _split(head)
    header.setdefault("__metadata__", {})[KEY] = msgspec.json.encode(dossier).decode()
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def read(head: bytes) -> Dossier:
    """The dossier of a head; an empty one if it has none.

    Raises:
        ArtifactError: the file, or its dossier, cannot be read.
    """
    header, _ = _split(head)
    text = header.get("__metadata__", {}).get(KEY)
    if text is None:
        return Dossier()
    try:
        return msgspec.json.decode(text, type=Dossier)
    except msgspec.DecodeError as error:
        raise ArtifactError("manifest", f"The head's dossier cannot be read: {error}.") from error


def _split(head: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > len(head) - 8:
        raise ArtifactError("hash", "The head is not a safetensors file: its header is cut off.")
    try:
        header = json.loads(head[8 : 8 + length])
    except ValueError as error:
        raise ArtifactError("hash", "The head is not a safetensors file: its header is not JSON.") from error
    if not isinstance(header, dict):
        raise ArtifactError("hash", "The head is not a safetensors file: its header is not an object.")
    return header, head[8 + length :]
