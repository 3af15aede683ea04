"""An exported graph whose matrices are 8-bit integers, with the activations rounded as they come (dynamic int8).

Each column of a matrix has a scale of its own. Of the 8 bits 7 are used: without VNNI a processor adds two products
of 8 bits into 16, and what overflows there is cut off without a word. A version's matrices are rounded here, by the
same rule by which onnxruntime rounded the pretrained ones, and replace them; so a version is merged, as ever, and then
rounded.

Runs as a process of its own (``python -m stream_ft.model.engines.int8_graph GRAPHS FOLDER``): it holds the model
several times over.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from stream_ft.errors import ArtifactError
from stream_ft.model.engines.graph import GRAPH, WEIGHTS

MAP = "int8.json"
QUANTISED, SCALE = "_quantized", "_scale"
"""What onnxruntime appends to the name of a matrix."""
TRANSPOSED = "_Transposed"
"""The same, where it turns the matrix of a Gemm before it rounds it."""
LEVELS = 64
"""Integers run from minus this to this."""
TOLERANCE = 0.1
"""Largest difference from torch on the golden inputs, relative to the largest value there."""
SECONDS = 300

Array = npt.NDArray[Any]


class Names(Struct, frozen=True, kw_only=True):
    """Weights of the 8-bit graph by their names in the exported one."""

    rounded: list[str]
    """Matrices that it holds as integers and scales."""
    kept: list[str]
    """Weights that it holds as they were."""


class Int8Graph:
    """The 8-bit graph in a folder.

    Raises:
        ArtifactError: step ``manifest``: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / GRAPH
        try:
            names = msgspec.json.decode((folder / MAP).read_bytes(), type=Names)
        except (OSError, msgspec.MsgspecError) as error:
            raise ArtifactError("manifest", f"The 8-bit graph in {folder} cannot be read: {error}.") from error
        self._rounded, self._kept = frozenset(names.rounded), frozenset(names.kept)

    def replaced(self, name: str, value: Array) -> dict[str, Array]:
        """What stands in this graph for the weight ``name`` of the exported one, when its value is ``value``."""
        found: dict[str, Array] = {}
        if name in self._rounded:
            found[name + QUANTISED], found[name + SCALE] = rounded(value)
        if name in self._kept:
            found[name] = value
        return found


def rounded(matrix: Array) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """``(integers [K, N], scales [N])`` of a float32 matrix ``[K, N]``, symmetric about zero, by column."""
    scales = (np.abs(matrix).max(0, initial=0).astype(np.float64) / LEVELS).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1.0
    integers = np.clip(np.rint(matrix / scales), -LEVELS, LEVELS).astype(np.int8)
    return integers, scales


def int8_graph(graph: Path) -> Int8Graph:
    """The 8-bit form of the exported graph in ``graph``, kept beside it; made if nobody has done so yet.

    Raises:
        ArtifactError: step ``export``: it cannot be made.
    """
    folder = graph.with_name(f"{graph.name}-int8-ort-{version('onnxruntime')}")
    if not (folder / MAP).is_file():
        logging.getLogger("stream_ft.model.engines").info("the model's 8-bit form is made, once")
        command = [sys.executable, "-m", __name__, str(graph), str(folder)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ArtifactError("export", f"The 8-bit form of the model was not made in {SECONDS} s.") from error
        if ran.returncode:
            told = ran.stderr.strip().splitlines() or [f"it ended with {ran.returncode}"]
            raise ArtifactError("export", f"The 8-bit form of the model cannot be made: {told[-1]}.")
    return Int8Graph(folder)


def write(graph: Path, folder: Path) -> None:
    """Write the 8-bit form of an exported graph as ``folder``; all of it or nothing.

    Raises:
        ArtifactError: step ``export``: a weight is not in it by a name that tells whose it is.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    draft = Path(tempfile.mkdtemp(prefix=".int8-", dir=folder.parent))
    try:
        quantize_dynamic(
            graph / GRAPH,
            draft / GRAPH,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(draft / GRAPH)
        exported = onnx.load(graph / GRAPH, load_external_data=False).graph.initializer
        before = {initializer.name for initializer in exported if initializer.external_data}
        after = {initializer.name for initializer in model.graph.initializer}
        names = Names(
            rounded=sorted(name for name in before if {name + QUANTISED, name + SCALE} <= after),
            kept=sorted(before & after),
        )
        _check_all_there(before, after, names)
        replaceable = set(names.kept) | {name + end for name in names.rounded for end in (QUANTISED, SCALE)}
        for initializer in model.graph.initializer:
            # What a session is to replace must lie outside the graph, and for that its bytes must be raw.
            if initializer.name in replaceable:
                value = onnx.numpy_helper.to_array(initializer)
                initializer.CopyFrom(onnx.numpy_helper.from_array(value, initializer.name))
                onnx.external_data_helper.set_external_data(initializer, location=WEIGHTS)
        onnx.save(model, draft / GRAPH)
        (draft / MAP).write_bytes(msgspec.json.encode(names))
        try:
            draft.rename(folder)
        except OSError:
            if not (folder / MAP).is_file():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_all_there(before: set[str], after: set[str], names: Names) -> None:
    """Or a version's weight would be given to nobody, and the pretrained one would answer without a word."""
    for name in sorted(before):
        turned = sorted(other for other in after if other.startswith(name + TRANSPOSED))
        if turned or name not in {*names.rounded, *names.kept}:
            where = f"stands in it as {turned[0]}" if turned else "is not in it"
            raise ArtifactError("export", f"the weight {name} {where}, where no version could replace it.")


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]), Path(sys.argv[2]))
    except ArtifactError as refused:
        sys.exit(refused.message)
