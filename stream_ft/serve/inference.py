"""Answers: the plain ``POST /predict`` and the Open Inference Protocol v2.

Every input gets an id, by which feedback names its answer, and every answer is published as a Prediction with the
embedding that the head read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import UNSET, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_ft import __version__, tracing
from stream_ft.events import Prediction, to_json
from stream_ft.metrics import ServeMetrics
from stream_ft.ports import Clock, Outgoing
from stream_ft.serve import body
from stream_ft.serve.batcher import Batcher
from stream_ft.serve.body import RefusedError
from stream_ft.serve.predictions_id import PredictionIds
from stream_ft.serve.protocol import (
    BY_DEFAULT,
    OUTPUTS,
    InferReply,
    InferRequest,
    Issued,
    ModelReadiness,
    OutputTensor,
    ServerMetadata,
    finite,
    metadata,
    texts_of,
    wanted_of,
)
from stream_ft.serve.replies import PlainAnswer, PlainReply, reply
from stream_ft.serve.slots import Answer, Slot, Version
from stream_ft.serve.trial import Trials
from stream_ft.topics import topic
from stream_ft.tracing import Traces

VERSION_HEADER = "stream-ft-version"
KEY_HEADER = "stream-ft-key"
"""Whose requests the same version should answer during a canary: a user's or a session's id. Not kept."""


class PlainRequest(Struct):
    """One text or several."""

    inputs: str | list[str]


class Inference:
    """The routes that answer.

    Args:
        model: name in URLs and topics.
        batcher: in front of the forward thread.
        current: the version that answers now, if any.
        publish: takes a message to be appended in passing; false if it was dropped.
        ids: makes prediction ids.
        trials: deals a request its slot.
        traces: where spans go.
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
        traces: Traces,
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
        self._traces = traces
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
            Route("/v2/", self.server, methods=["GET"]),
            Route("/v2/models/{model}", self.metadata, methods=["GET"]),
            Route("/v2/models/{model}/ready", self.model_ready, methods=["GET"]),
            Route("/v2/models/{model}/infer", self.infer, methods=["POST"]),
            Route("/v2/models/{model}/versions/{version}", self.metadata, methods=["GET"]),
            Route("/v2/models/{model}/versions/{version}/ready", self.model_ready, methods=["GET"]),
            Route("/v2/models/{model}/versions/{version}/infer", self.infer, methods=["POST"]),
        ]

    async def predict(self, request: Request) -> Response:
        """Plain texts to plain answers."""
        started = time.perf_counter()
        asked: PlainRequest = body.decode(await self._body(request), PlainRequest)
        issued = await self._answer(request, [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs, started)
        rows = zip(issued.ids, issued.answers, strict=True)
        content = PlainReply(
            model=self._model,
            version=issued.version.name,
            predictions=[PlainAnswer(id=i, label=a.label, score=finite(a.score)) for i, a in rows],
        )
        return reply(content, headers={VERSION_HEADER: issued.version.name})

    async def infer(self, request: Request) -> Response:
        """Inference by the protocol: one tensor of texts in, those of :data:`OUTPUTS` that are asked for out."""
        started = time.perf_counter()
        self._check_model(request)
        self._version_asked(request)
        if "inference-header-content-length" in request.headers:
            raise RefusedError(415, "Binary tensors are not supported.", "Send the tensors as JSON.")
        asked: InferRequest = body.decode(await self._body(request), InferRequest)
        wanted = wanted_of(asked)
        issued = await self._answer(request, texts_of(asked), started)

        def outputs() -> list[OutputTensor]:
            return [OUTPUTS[name](issued) for name in wanted]

        content = InferReply(
            model_name=self._model,
            model_version=issued.version.name,
            id=UNSET if asked.id is None else asked.id,
            # Matrices take a while: not on the event loop.
            outputs=outputs() if set(wanted) <= set(BY_DEFAULT) else await asyncio.to_thread(outputs),
        )
        return reply(content, headers={VERSION_HEADER: issued.version.name})

    async def server(self, request: Request) -> Response:
        """Metadata of the server."""
        return reply(ServerMetadata(name="stream_ft", version=__version__, extensions=[]))

    async def metadata(self, request: Request) -> Response:
        """Metadata of the model, or of a version that can be asked for."""
        self._check_model(request)
        version = self._version_asked(request)
        named = "version" in request.path_params
        return reply(metadata(self._model, version, None if named else self._trials.challenger))

    async def model_ready(self, request: Request) -> Response:
        """Does the model, or this version of it, answer?"""
        self._check_model(request)
        ready = self._version_asked(request) is not None
        return reply(ModelReadiness(name=self._model, ready=ready), 200 if ready else 503)

    def _check_model(self, request: Request) -> None:
        if request.path_params["model"] != self._model:
            raise RefusedError(
                404, "There is no model of this name here.", f"This server has the model {self._model!r}."
            )

    def _version_asked(self, request: Request) -> Version | None:
        """The version that the path names, if it answers or is on trial; the one that answers, if it names none.

        Raises:
            RefusedError: 404: another one is named.
        """
        current, wanted = self._current(), request.path_params.get("version")
        if wanted is None:
            return current
        for version in (current, self._trials.challenger):
            if version is not None and version.name == wanted:
                return version
        raise RefusedError(404, "This version does not answer now.", "GET /versions lists those that there were.")

    async def _body(self, request: Request) -> bytes:
        return await body.read(request, limit=self._max_body_bytes, timeout_s=self._timeout_s)

    async def _answer(self, request: Request, texts: Sequence[str], started: float) -> Issued:
        texts = list(texts)
        body.check_texts(texts, most=self._max_inputs)
        slot: Slot
        if (named := request.path_params.get("version")) is None:
            slot = self._trials.slot(request.headers.get(KEY_HEADER) or texts[0])
        else:  # who asks for a version gets it, whatever his share of the trial
            asked = self._version_asked(request)
            slot = "champion" if asked is None else asked.slot
        answers = await self._batcher.submit(texts, slot)
        if named not in (None, answers[0].version.name):  # a flip came between the request and its batch
            raise RefusedError(404, "This version does not answer now.", "GET /versions lists those that there were.")
        latency = time.perf_counter() - started
        issued = Issued(ids=[self._ids.issue() for _ in texts], answers=answers)
        now = self._clock.now()
        trace = self._traces.span(
            "predict",
            start=now - latency,
            end=now,
            parent=tracing.checked(request.headers.get(tracing.HEADER)),
            attributes={
                "prediction": issued.ids[0],
                "inputs": len(texts),
                "version": issued.version.name,
                "base": issued.version.base,
                "slot": slot,
            },
        )
        for name, text, answer in zip(issued.ids, texts, answers, strict=True):
            self._publish_one(name, text, answer, now, latency, trace)
        self._metrics.latency.observe(latency)
        self._trials.answered(texts[0], answers[0], issued.ids[0])
        return issued

    def _publish_one(self, name: str, text: str, answer: Answer, now: float, latency: float, trace: str) -> None:
        self._metrics.predicted(answer.version.name)
        event = Prediction(
            id=name,
            time=now,
            model=self._model,
            version=answer.version.name,
            base=answer.version.base,
            input=text,
            output=answer.label,
            score=finite(answer.score),
            embedding=answer.embedding,
            latency_s=round(latency, 6),
        )
        message = Outgoing(topic=self._topic, key=name.encode(), value=to_json(event), headers=tracing.headers(trace))
        if not self._publish(message):
            self._metrics.dropped.inc()
