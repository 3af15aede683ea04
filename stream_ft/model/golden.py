"""Golden texts: what a version must make of them before it answers anybody.

A round leaves with its base what its encoder makes of them. Whoever prepares the base must get the same, but for what
engines differ by: so weights that are merged in another way, or into other places, are not served.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stream_ft.errors import ArtifactError

TEXTS = (
    "hello",
    "Where is my order? It should have been here on Monday.",
    "我想退货,请问怎么操作?",
    "0 1 2 3 4 5 6 7 8 9 !?#",
)
FILE = "golden.safetensors"
"""In the folder of a base; bases that others made have none."""
EXACT, ROUNDED, COARSE = 0.02, 0.2, 0.5
"""How far embeddings may be off, relative to their largest value: in floating point, with 8-bit, and 4-bit weights."""


def golden_file(embeddings: NDArray[np.float16], tolerance: float) -> dict[str, bytes]:
    """What the encoder of a round makes of the texts, ``[4, dim]``, as a file of its base.

    Args:
        tolerance: of the engine that made them.
    """
    return {FILE: save({"embeddings": embeddings.astype(np.float16), "tolerance": np.array([tolerance], np.float32)})}


def check(files: Mapping[str, bytes], found: NDArray[np.float16], tolerance: float) -> None:
    """Compare ``found``, ``[4, dim]``, with what the round had, where its base tells.

    Args:
        files: of the base.
        tolerance: of the engine that made ``found``.

    Raises:
        ArtifactError: step ``golden``: they differ, or the file cannot be read.
    """
    if FILE not in files:
        return
    try:
        told = load(files[FILE])
        expected, most = told["embeddings"].astype(np.float32), max(tolerance, float(told["tolerance"][0]))
    except (SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
        raise ArtifactError("golden", f"{FILE} cannot be read: {error}.") from error
    if expected.shape != found.shape:
        raise ArtifactError("golden", f"The round had {expected.shape} on the golden texts, the encoder {found.shape}.")
    off = float(np.abs(found.astype(np.float32) - expected).max() / max(float(np.abs(expected).max()), 1e-6))
    if not off <= most:
        raise ArtifactError(
            "golden",
            f"On the golden texts the encoder is off by {off:.2g} from what the round had; at most {most:g} may be.",
        )
