"""Answers: the plain ``POST /predict`` and the Open Inference Protocol v2.

Every input gets an id, by which feedback names its answer, and every answer is published as a Prediction with the
embedding that the head read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from stream_ft import __version__
from stream_ft.events import Prediction, to_json
from stream_ft.metrics import ServeMetrics
from stream_ft.ports import Clock, Outgoing
from stream_ft.serve import body
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.body import RefusedError
from stream_ft.serve.predictions_id import PredictionIds
from stream_ft.serve.slots import Answer, Version
from stream_ft.serve.trial import Trials
from stream_ft.topics import topic

VERSION_HEADER = "stream-ft-version"
KEY_HEADER = "stream-ft-key"
"""Whose requests the same version should answer during a canary: a user's or a session's id. Not kept."""


class PlainRequest(Struct):
    """``{"inputs": "text"}`` or ``{"inputs": ["text", ...]}``."""

    inputs: str | list[str]


class InputTensor(Struct):
    """A tensor of the protocol. ``data`` may be flat or nested."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class WantedOutput(Struct):
    """An output that the client asks for by name."""

    name: str


class InferRequest(Struct):
    """An inference request of the Open Inference Protocol v2; unknown fields are ignored, as it says."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: list[WantedOutput] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """Answers of one request: all of one version, each with its id."""

    ids: list[str]
    answers: list[Answer]

    @property
    def version(self) -> Version:
        """What answered."""
        return self.answers[0].version


OUTPUTS: dict[str, tuple[str, Callable[[Issued], list[Any]]]] = {
    "label": ("BYTES", lambda issued: [answer.label for answer in issued.answers]),
    "score": ("FP32", lambda issued: [_finite(answer.score) for answer in issued.answers]),
    "prediction_id": ("BYTES", lambda issued: issued.ids),
}
"""Output tensors of the protocol, each of shape ``[N]``."""


class Inference:
    """The routes that answer.

    Args:
        model: name in URLs and topics.
        batcher: in front of the forward thread.
        current: the version that answers now, if any.
        publish: takes a message to be appended in passing; false if it was dropped.
        ids: makes prediction ids.
        trials: deals a request its slot.
        max_inputs: most inputs in one request.
        max_body_bytes, timeout_s: limits of the body.
    """

    def __init__(
        self,
        *,
        model: str,
        batcher: Batcher[Answer],
        current: Callable[[], Version | None],
        publish: Callable[[Outgoing], bool],
        ids: PredictionIds,
        trials: Trials,
        metrics: ServeMetrics,
        clock: Clock,
        max_inputs: int,
        max_body_bytes: int,
        timeout_s: float,
    ) -> None:
        self._model = model
        self._batcher = batcher
        self._current = current
        self._publish = publish
        self._ids = ids
        self._trials = trials
        self._metrics = metrics
        self._clock = clock
        self._max_inputs = max_inputs
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s
        self._topic = topic(model, "predictions")

    def routes(self) -> list[Route]:
        """What to mount."""
        return [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/v2", self.server, methods=["GET"]),
            Route("/v2/models/{model}", self.metadata, methods=["GET"]),
            Route("/v2/models/{model}/ready", self.model_ready, methods=["GET"]),
            Route("/v2/models/{model}/infer", self.infer, methods=["POST"]),
            Route("/v2/models/{model}/versions/{version}", self.metadata, methods=["GET"]),
            Route("/v2/models/{model}/versions/{version}/ready", self.model_ready, methods=["GET"]),
        ]

    async def predict(self, request: Request) -> Response:
        """``{"inputs": ...}`` to ``{"model", "version", "predictions": [{"id", "label", "score"}]}``."""
        started = time.perf_counter()
        asked: PlainRequest = body.decode(await self._body(request), PlainRequest)
        issued = await self._answer(request, [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs, started)
        rows = zip(issued.ids, issued.answers, strict=True)
        content = {
            "model": self._model,
            "version": issued.version.name,
            "predictions": [{"id": i, "label": a.label, "score": _finite(a.score)} for i, a in rows],
        }
        return JSONResponse(content, headers={VERSION_HEADER: issued.version.name})

    async def infer(self, request: Request) -> Response:
        """Inference by the protocol: one BYTES tensor in; ``label``, ``score`` and ``prediction_id`` out."""
        started = time.perf_counter()
        self._check_model(request)
        if "inference-header-content-length" in request.headers:
            raise RefusedError(415, "Binary tensors are not supported.", "Send the tensors as JSON.")
        asked: InferRequest = body.decode(await self._body(request), InferRequest)
        wanted = list(OUTPUTS) if asked.outputs is None else [output.name for output in asked.outputs]
        if unknown := [name for name in wanted if name not in OUTPUTS]:
            raise RefusedError(400, f"There is no output {unknown[0]!r}; there are {', '.join(OUTPUTS)}.")
        issued = await self._answer(request, texts_of(asked), started)
        content: dict[str, Any] = {
            "model_name": self._model,
            "model_version": issued.version.name,
            "outputs": [
                {
                    "name": name,
                    "shape": [len(issued.ids)],
                    "datatype": OUTPUTS[name][0],
                    "data": OUTPUTS[name][1](issued),
                }
                for name in wanted
            ],
        }
        if asked.id is not None:
            content["id"] = asked.id
        return JSONResponse(content, headers={VERSION_HEADER: issued.version.name})

    async def server(self, request: Request) -> Response:
        """Metadata of the server."""
        return JSONResponse({"name": "stream_ft", "version": __version__, "extensions": []})

    async def metadata(self, request: Request) -> Response:
        """Metadata of the model; only the version that answers can be asked for."""
        self._check_model(request)
        version = self._current()
        self._check_version(request, version)
        outputs = [{"name": name, "datatype": kind, "shape": [-1]} for name, (kind, _) in OUTPUTS.items()]
        return JSONResponse(
            {
                "name": self._model,
                "versions": [] if version is None else [version.name],
                "platform": "stream_ft",
                "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
                "outputs": outputs,
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """Does the model, or this version of it, answer?"""
        self._check_model(request)
        version = self._current()
        self._check_version(request, version)
        ready = version is not None
        return JSONResponse({"name": self._model, "ready": ready}, status_code=200 if ready else 503)

    def _check_model(self, request: Request) -> None:
        if request.path_params["model"] != self._model:
            raise RefusedError(
                404, "There is no model of this name here.", f"This server has the model {self._model!r}."
            )

    def _check_version(self, request: Request, current: Version | None) -> None:
        wanted = request.path_params.get("version")
        if wanted is not None and (current is None or current.name != wanted):
            raise RefusedError(404, "This version does not answer now.", "GET /versions lists those that there were.")

    async def _body(self, request: Request) -> bytes:
        return await body.read(request, limit=self._max_body_bytes, timeout_s=self._timeout_s)

    async def _answer(self, request: Request, texts: Sequence[str], started: float) -> Issued:
        texts = list(texts)
        body.check_texts(texts, most=self._max_inputs)
        slot = self._trials.slot(request.headers.get(KEY_HEADER) or texts[0])
        answers = await self._batcher.submit(texts, slot)
        latency = time.perf_counter() - started
        issued = Issued(ids=[self._ids.issue() for _ in texts], answers=answers)
        now = self._clock.now()
        for name, text, answer in zip(issued.ids, texts, answers, strict=True):
            self._publish_one(name, text, answer, now, latency)
        self._metrics.latency.observe(latency)
        self._trials.answered(texts[0], answers[0], issued.ids[0])
        return issued

    def _publish_one(self, name: str, text: str, answer: Answer, now: float, latency: float) -> None:
        event = Prediction(
            id=name,
            time=now,
            model=self._model,
            version=answer.version.name,
            base=answer.version.base,
            input=text,
            output=answer.label,
            score=_finite(answer.score),
            embedding=answer.embedding,
            latency_s=round(latency, 6),
        )
        if not self._publish(Outgoing(topic=self._topic, key=name.encode(), value=to_json(event))):
            self._metrics.dropped.inc()


def texts_of(asked: InferRequest) -> list[str]:
    """The texts of a request's only tensor.

    Raises:
        RefusedError: 400 for another number of tensors, another datatype, or a shape that does not fit the data.
    """
    if len(asked.inputs) != 1:
        raise RefusedError(400, f"The model takes one input tensor; the request has {len(asked.inputs)}.")
    tensor = asked.inputs[0]
    if tensor.datatype != "BYTES":
        raise RefusedError(400, "The input tensor must have the datatype BYTES: each element is one text.")
    flat: list[Any] = tensor.data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(part, list) for part in flat):
            raise RefusedError(400, "The input tensor's data are nested unevenly.")
        flat = [element for part in flat for element in part]
    if not all(isinstance(element, str) for element in flat):
        raise RefusedError(400, "The input tensor's data must be strings.")
    if any(size < 0 for size in tensor.shape) or math.prod(tensor.shape[:8]) != len(flat) or len(tensor.shape) > 8:
        raise RefusedError(400, f"The input tensor has {len(flat)} elements, which is not what its shape says.")
    return flat


def _finite(score: float) -> float:
    """JSON has no NaN; the swap refuses heads that could give one, so this is the last line only."""
    return score if math.isfinite(score) else 0.0
