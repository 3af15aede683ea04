"""An exported graph on disk: its files, and the map from torch names to its weights. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safetensors import safe_open
from safetensors.numpy import load_file

from stream_ft.errors import ArtifactError
from stream_ft.model.plain_tokenizer import TokenizerFacts

GRAPH, WEIGHTS, REST, GOLDEN, MAP = "graph.onnx", "weights.bin", "rest.safetensors", "golden.safetensors", "graph.json"
FORMAT = 3
"""Grows when what is written changes; it is part of the folder's name."""

Array = npt.NDArray[Any]


class Place(Struct, frozen=True, kw_only=True):
    """Where a tensor lies in the graph."""

    initializer: str
    transposed: bool


class GraphMap(Struct, frozen=True, kw_only=True):
    """What is known of a graph."""

    base_sha256: str
    dim: int
    places: dict[str, Place]
    """By torch name; a tensor that the output does not depend on has none."""
    shapes: dict[str, tuple[int, ...]]
    """Of every tensor of the torch module, by its name."""
    dtypes: dict[str, str]
    """The same, by numpy's names."""
    tied: list[str]
    """Names that share memory with another name."""
    tokenizer: TokenizerFacts | None = None
    """``None`` where the tokenizer's file alone does not give the same ids as transformers."""

    def to_bytes(self) -> bytes:
        """As JSON."""
        return msgspec.json.encode(self)


def read_map(folder: Path) -> GraphMap:
    """The map of an exported graph.

    Raises:
        ArtifactError: step ``manifest``: it is missing or cannot be read.
    """
    try:
        return msgspec.json.decode((folder / MAP).read_bytes(), type=GraphMap)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError("manifest", f"The exported graph in {folder} cannot be read: {error}.") from error


class Weights:
    """The pretrained weights beside a graph, by torch name; each is read when it is asked for.

    Args:
        folder: of the graph.
        described: its map.
    """

    def __init__(self, folder: Path, described: GraphMap) -> None:
        import onnx

        graph = onnx.load(folder / GRAPH, load_external_data=False)
        self._at: dict[str, tuple[int, tuple[int, ...]]] = {}
        for initializer in graph.graph.initializer:
            external = {entry.key: entry.value for entry in initializer.external_data}
            if external.get("location") == WEIGHTS:
                self._at[initializer.name] = (int(external.get("offset", 0)), tuple(initializer.dims))
        self._path = folder / WEIGHTS
        self._rest = folder / REST
        self._places = described.places

    def __call__(self, name: str) -> Array:
        """The pretrained tensor ``name``, in torch's shape; not to be written, and perhaps transposed in memory.

        Raises:
            KeyError: there is none.
        """
        place = self._places.get(name)
        if place is None:
            with safe_open(self._rest, framework="numpy") as rest:
                if name not in rest.keys():  # noqa: SIM118 (safe_open is no mapping)
                    raise KeyError(name)
                value: Array = rest.get_tensor(name)
                return value
        offset, shape = self._at[place.initializer]
        found: Array = np.memmap(self._path, np.float32, "r", offset, shape or (1,))
        return found.T if place.transposed else found


def golden(folder: Path) -> tuple[Array, Array, Array]:
    """``(input_ids [B, T], attention_mask [B, T], pooled [B, dim])``: what torch makes of these tokens."""
    tensors = load_file(folder / GOLDEN)
    return tensors["input_ids"], tensors["attention_mask"], tensors["pooled"]
