"""The Open Inference Protocol v2: its requests and answers as types, and the tensors that go in and come out.

https://github.com/open-inference/open-inference-protocol
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType, field
from numpy.typing import NDArray

from stream_ft.serve.body import RefusedError
from stream_ft.serve.slots import Answer, Version

TAKES = "It takes one tensor of texts: datatype BYTES, shape [N] or [N, 1]; it makes token ids of them itself."

Parameters = Annotated[dict[str, Any], Meta(description="Read and ignored: there is nothing to set.")]


class InputTensor(Struct):
    """A tensor of texts."""

    name: Annotated[str, Meta(description="Any; the metadata call it text.")]
    shape: Annotated[list[int], Meta(description="[N] or [N, 1].")]
    datatype: Annotated[str, Meta(description="BYTES.")]
    data: Annotated[list[Any], Meta(description="N texts, flat or nested.")]
    parameters: Parameters = field(default_factory=dict)


class WantedOutput(Struct):
    """An output that the client asks for by name."""

    name: Annotated[str, Meta(description="label, score, prediction_id, embedding or probabilities.")]
    parameters: Parameters = field(default_factory=dict)


class InferRequest(Struct):
    """An inference request. Unknown fields are ignored, as the protocol says."""

    inputs: Annotated[list[InputTensor], Meta(description="One.")]
    id: Annotated[str, Meta(description="Comes back in the answer.")] | None = None
    parameters: Parameters = field(default_factory=dict)
    outputs: Annotated[list[WantedOutput], Meta(description="Without any: label, score and prediction_id.")] | None = (
        None
    )


class OutputTensor(Struct, frozen=True, kw_only=True):
    """A tensor of answers; data are flat, row by row."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: (
        Annotated[dict[str, Any], Meta(description="Of probabilities: labels, the name of each column.")] | UnsetType
    ) = UNSET


class InferReply(Struct, frozen=True, kw_only=True):
    """Answers of one version."""

    model_name: str
    model_version: str
    id: Annotated[str, Meta(description="That of the request.")] | UnsetType = UNSET
    outputs: list[OutputTensor]


class ServerMetadata(Struct, frozen=True, kw_only=True):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(Struct, frozen=True, kw_only=True):
    """A tensor that the model takes or gives."""

    name: str
    datatype: str
    shape: Annotated[list[int], Meta(description="-1 stands for any size.")]


class ModelMetadata(Struct, frozen=True, kw_only=True):
    """What the model takes and gives."""

    name: str
    versions: Annotated[
        list[str], Meta(description="The version that answers, and one on trial beside it; empty for none.")
    ]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReadiness(Struct, frozen=True, kw_only=True):
    """Whether the model answers."""

    name: str
    ready: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """Answers of one request, at least one: all of one version, each with its id."""

    ids: list[str]
    answers: list[Answer]

    @property
    def version(self) -> Version:
        """What answered."""
        return self.answers[0].version

    @property
    def embeddings(self) -> NDArray[np.float16]:
        """``[N, dim]``, as the head read them."""
        flat = np.frombuffer(b"".join(answer.embedding for answer in self.answers), "<f2")
        return flat.reshape(len(self.answers), -1)


def _label(issued: Issued) -> OutputTensor:
    data = [answer.label for answer in issued.answers]
    return OutputTensor(name="label", datatype="BYTES", shape=[len(data)], data=data)


def _score(issued: Issued) -> OutputTensor:
    data = [finite(answer.score) for answer in issued.answers]
    return OutputTensor(name="score", datatype="FP32", shape=[len(data)], data=data)


def _prediction_id(issued: Issued) -> OutputTensor:
    return OutputTensor(name="prediction_id", datatype="BYTES", shape=[len(issued.ids)], data=issued.ids)


def _embedding(issued: Issued) -> OutputTensor:
    return OutputTensor(name="embedding", datatype="FP32", **_matrix(issued.embeddings))


def _probabilities(issued: Issued) -> OutputTensor:
    head = issued.version.head
    return OutputTensor(
        name="probabilities",
        datatype="FP32",
        parameters={"labels": list(head.labels)},
        **_matrix(head.probabilities(issued.embeddings)),
    )


OUTPUTS: dict[str, Callable[[Issued], OutputTensor]] = {
    "label": _label,
    "score": _score,
    "prediction_id": _prediction_id,
    "embedding": _embedding,
    "probabilities": _probabilities,
}
"""Output tensors by name."""
BY_DEFAULT = ("label", "score", "prediction_id")
"""What a request gets that asks for nothing: the other two are hundreds of numbers for each text."""


def wanted_of(asked: InferRequest) -> list[str]:
    """Names of the outputs that a request gets, in its order.

    Raises:
        RefusedError: 400 for an output that there is not, and for one named twice: a small request must not be able to
            ask for the same megabytes thousands of times.
    """
    names = [output.name for output in asked.outputs or ()]
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise RefusedError(400, f"There is no output {unknown[0][:100]!r}.", f"There are {', '.join(OUTPUTS)}.")
    if len(set(names)) != len(names):
        raise RefusedError(400, "An output is asked for twice.")
    return names or list(BY_DEFAULT)


def texts_of(asked: InferRequest) -> list[str]:
    """The texts of a request's only tensor.

    Raises:
        RefusedError: 400 for another number of tensors, another datatype or shape, or data that do not fit the shape.
    """
    if len(asked.inputs) != 1:
        raise RefusedError(400, f"The model does not take {len(asked.inputs)} input tensors.", TAKES)
    tensor = asked.inputs[0]
    if tensor.datatype != "BYTES":
        raise RefusedError(400, "The model does not take an input tensor of this datatype.", TAKES)
    if not (len(tensor.shape) == 1 or (len(tensor.shape) == 2 and tensor.shape[1] == 1)):
        raise RefusedError(400, "The model does not take an input tensor of this shape.", TAKES)
    flat: list[Any] = tensor.data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(part, list) and len(part) == len(flat[0]) for part in flat):
            raise RefusedError(400, "The input tensor's data are nested unevenly.", TAKES)
        flat = [element for part in flat for element in part]
    if not all(isinstance(element, str) for element in flat):
        raise RefusedError(400, "The input tensor's data must be strings.", TAKES)
    if tensor.shape[0] != len(flat):
        raise RefusedError(400, f"The input tensor has {len(flat)} elements, which is not what its shape says.")
    return flat


def metadata(model: str, version: Version | None, challenger: Version | None) -> ModelMetadata:
    """What is told of the model while ``version`` answers, and ``challenger`` is on trial."""
    dim = -1 if version is None else version.head.dim
    labels = -1 if version is None else len(version.head.labels)
    outputs = (
        ("label", "BYTES", [-1]),
        ("score", "FP32", [-1]),
        ("prediction_id", "BYTES", [-1]),
        ("embedding", "FP32", [-1, dim]),
        ("probabilities", "FP32", [-1, labels]),
    )
    return ModelMetadata(
        name=model,
        versions=[there.name for there in (version, challenger) if there is not None],
        platform="stream_ft",
        inputs=[TensorMetadata(name="text", datatype="BYTES", shape=[-1])],
        outputs=[TensorMetadata(name=name, datatype=kind, shape=shape) for name, kind, shape in outputs],
    )


def finite(score: float) -> float:
    """JSON has no NaN; the swap refuses heads that could give one, so this is the last line only."""
    return score if math.isfinite(score) else 0.0


def _matrix(rows: NDArray[Any]) -> dict[str, Any]:
    numbers = np.nan_to_num(rows.astype(np.float32))
    return {"shape": list(numbers.shape), "data": numbers.ravel().tolist()}
