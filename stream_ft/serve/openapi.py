"""The service described: OpenAPI 3.1, from the types that it reads and sends.

Nothing of it depends on a server: what ``GET /openapi.json`` answers is what lies in ``docs/schemas/openapi.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from stream_ft import __version__
from stream_ft.events import SCHEMA_VERSION, Correction, Identifier, LabelName, Text
from stream_ft.serve import operate, protocol, recent, replies
from stream_ft.serve.catalogue import DEFAULT_LIMIT
from stream_ft.serve.inference import KEY_HEADER, VERSION_HEADER, PlainRequest
from stream_ft.serve.intake import MOST_EVENTS

Source = Annotated[str, Meta(max_length=200, description="Who says it: a person or a system.")]
EventId = Annotated[Identifier, Meta(description="Makes it safe to send twice.")]
Time = Annotated[float, Meta(description="Seconds since the epoch; without it, or in the future: the arrival.")]
SchemaVersion = Annotated[int, Meta(ge=1, le=SCHEMA_VERSION)]


class FeedbackBody(Struct, kw_only=True):
    """What somebody says of an answer: a kind, a label, a correction or a rating."""

    prediction_id: Annotated[Identifier, Meta(description="From the answer.")]
    label: Annotated[LabelName, Meta(description="The right label; short for a correction.")] | None = None
    kind: Literal["accept", "reject", "rating", "correct"] | None = None
    correction: Correction | None = None
    rating: Annotated[float, Meta(ge=-1e6, le=1e6, description="A metric; trains nothing.")] | None = None
    source: Source | None = "user"
    origin: Annotated[Literal["user", "model"], Meta(description="What comes from a model trains nothing.")] | None = (
        "user"
    )
    id: EventId | None = None
    time: Time | None = None
    type: Literal["feedback"] | None = "feedback"
    schema_version: SchemaVersion = SCHEMA_VERSION


class LabelBody(Struct, kw_only=True):
    """An input with its right answer: a label or a correction."""

    input: Text
    label: Annotated[LabelName, Meta(description="Short for a correction.")] | None = None
    correction: Correction | None = None
    source: Source | None = "labels"
    origin: Literal["label_topic", "user", "model"] | None = "label_topic"
    id: EventId | None = None
    time: Time | None = None
    type: Literal["labelled"] | None = "labelled"
    schema_version: SchemaVersion = SCHEMA_VERSION


ERRORS = {
    400: "Not JSON, not UTF-8, NaN, nested too deep, or not of this form.",
    401: "The token is missing or wrong, where one is set.",
    403: "A page of another site tried to send something; or a command from another machine, where no token is set.",
    404: "No such model or version here, or a prediction that was not issued.",
    408: "The body did not come in time.",
    409: "The control log refuses the command; nothing changes.",
    413: "The body is too large.",
    415: "The tensors are binary.",
    422: "Read, but not usable: a text without a visible character, one too long, a field that is missing.",
    429: "The queue is full, or the request would probably wait too long.",
    500: "The model could not answer this input. The server's log has the reason.",
    503: "No version is loaded yet, or the disk takes nothing.",
    504: "The answer took too long.",
}
"""When each status is given; the body is an :class:`replies.ErrorReply`."""

PARAMETERS = {
    "model": "Name of the model.",
    "version": "Name of the version: the one that answers now, or the challenger of a trial.",
    "name": "Name of a version, as /versions lists it.",
}
"""What stands in paths."""

LIMIT = {
    "name": "limit",
    "in": "query",
    "description": "How many of the newest are listed.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999, "default": DEFAULT_LIMIT},
}
NEWEST = {
    "name": "limit",
    "in": "query",
    "description": "How many of the newest.",
    "schema": {"type": "integer", "minimum": 1, "maximum": recent.MOST, "default": recent.DEFAULT_LIMIT},
}
OF = {
    "name": "id",
    "in": "query",
    "description": f"A prediction's or an event's id: only what the {recent.MOST} newest of a topic say of it.",
    "schema": {"type": "string"},
}
BODY = (400, 408, 413)
ANSWER = (422, 429, 500, 503, 504)


KEY: dict[str, Any] = {
    "name": KEY_HEADER,
    "in": "header",
    "description": "A user or a session: while a canary runs, the same key is always dealt the same version.",
    "schema": {"type": "string"},
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path.

    Args:
        group: heading under which it is shown.
        summary: one sentence.
        gives: type of the answer, or its media type where it is no JSON; ``dict`` for this description itself.
        success: status of that answer.
        says_no: a status with the same type, where the question is of yes or no.
        errors: further statuses, in the form of errors.
        takes: type of the body.
        example: a body that is accepted.
        query: parameters of the query.
        probe: needs no token.
        names_version: the answer's header names the version.
    """

    group: str
    summary: str
    gives: Any
    success: int = 200
    says_no: int | None = None
    errors: tuple[int, ...] = ()
    takes: Any = None
    example: Any = None
    query: tuple[dict[str, Any], ...] = field(default=())
    probe: bool = False
    names_version: bool = False


def _several(item: Any) -> Any:
    return item | Annotated[list[item], Meta(min_length=1, max_length=MOST_EVENTS)]


_TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["where is my parcel?"]}
_OIP = "Open Inference Protocol v2"
_INFER = Operation(
    group=_OIP,
    summary="Answer, tensors in and tensors out.",
    takes=protocol.InferRequest,
    example={"inputs": [_TENSOR], "outputs": [{"name": "label"}, {"name": "probabilities"}]},
    gives=protocol.InferReply,
    errors=(404, 415, *BODY, *ANSWER),
    names_version=True,
)
_METADATA = Operation(
    group=_OIP, summary="What the model takes and gives.", gives=protocol.ModelMetadata, errors=(404,)
)
_MODEL_READY = Operation(
    group=_OIP, summary="Does it answer?", gives=protocol.ModelReadiness, says_no=503, errors=(404,)
)
_SERVER = Operation(group=_OIP, summary="What the server is.", gives=protocol.ServerMetadata)
_LIVE = Operation(group="Probes", summary="Does the process work?", gives=replies.LiveReply, says_no=500, probe=True)
_READY = Operation(
    group="Probes", summary="Does some version answer?", gives=replies.ReadyReply, says_no=503, probe=True
)

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/predict"): Operation(
        group="Answers",
        summary="Answer one text or several.",
        takes=PlainRequest,
        example={"inputs": ["where is my parcel?"]},
        gives=replies.PlainReply,
        errors=(*BODY, *ANSWER),
        names_version=True,
    ),
    ("POST", "/feedback"): Operation(
        group="Feedback",
        summary="Say what an answer was worth, or what would have been right.",
        takes=_several(FeedbackBody),
        example={"prediction_id": "p-...", "label": "delivery"},
        gives=replies.AcceptedReply,
        success=202,
        errors=(404, 422, 503, *BODY),
    ),
    ("POST", "/labels"): Operation(
        group="Feedback",
        summary="Teach from inputs with their right answers.",
        takes=_several(LabelBody),
        example=[{"input": "my parcel is late", "label": "delivery", "id": "ticket-4711", "source": "crm"}],
        gives=replies.AcceptedReply,
        success=202,
        errors=(422, 503, *BODY),
    ),
    ("GET", "/feedback"): Operation(
        group="Feedback",
        summary="What was said last, and what became of it.",
        query=(NEWEST, OF),
        gives=recent.FeedbackReply,
        errors=(400,),
    ),
    ("POST", "/control"): Operation(
        group="Versions and state",
        summary="An operator's command: one message on the control log. Without a token, from this machine alone.",
        takes=operate.ControlBody,
        example={"type": "pin"},
        gives=operate.ControlReply,
        errors=(409, 422, 503, *BODY),
    ),
    ("POST", "/v2/models/{model}/infer"): _INFER,
    ("POST", "/v2/models/{model}/versions/{version}/infer"): _INFER,
    ("GET", "/v2"): _SERVER,
    ("GET", "/v2/"): _SERVER,
    ("GET", "/v2/models/{model}"): _METADATA,
    ("GET", "/v2/models/{model}/versions/{version}"): _METADATA,
    ("GET", "/v2/models/{model}/ready"): _MODEL_READY,
    ("GET", "/v2/models/{model}/versions/{version}/ready"): _MODEL_READY,
    ("GET", "/versions"): Operation(
        group="Versions and state",
        summary="The newest versions, each with what it was trained on and the gate's numbers.",
        query=(LIMIT,),
        gives=replies.VersionsReply,
        errors=(400,),
    ),
    ("GET", "/versions/{name}"): Operation(
        group="Versions and state", summary="One version.", gives=replies.VersionReply, errors=(404,)
    ),
    ("GET", "/status"): Operation(
        group="Versions and state",
        summary="What is in force, and what the learner last said of itself.",
        gives=replies.StatusReply,
    ),
    ("GET", "/metrics"): Operation(
        group="Versions and state", summary="Every series, for Prometheus.", gives="text/plain"
    ),
    ("GET", "/"): Operation(group="Descriptions", summary="Every endpoint.", gives=replies.IndexReply),
    ("GET", "/openapi.json"): Operation(group="Descriptions", summary="This description.", gives=dict),
    ("GET", "/docs"): Operation(group="Descriptions", summary="This description, for people.", gives="text/html"),
    ("GET", "/console"): Operation(
        group="Versions and state",
        summary="A page that shows all this, with buttons. The page itself needs no token.",
        gives="text/html",
        probe=True,
    ),
    ("GET", "/livez"): _LIVE,
    ("GET", "/readyz"): _READY,
    ("GET", "/v2/health/live"): _LIVE,
    ("GET", "/v2/health/ready"): _READY,
}
"""Every route that is mounted; a test compares."""


def describe() -> dict[str, Any]:
    """The OpenAPI document."""
    types: list[Any] = [replies.ErrorReply]
    types += [kind for known in OPERATIONS.values() for kind in (known.takes, known.gives) if not _is_plain(kind)]
    found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = list(zip(types, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), known in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, known, schemas)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "stream_ft",
            "version": __version__,
            "description": "A model that learns from what its users tell it, while it serves. "
            "Where a token is set, everything but the probes and the console's page needs it.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": group} for group in dict.fromkeys(known.group for known in OPERATIONS.values())],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "responses": dict(_errors(schemas)),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    # Docstrings are written for Sphinx; a description is Markdown.
    return _replaced(document)  # type: ignore[no-any-return]


def _is_plain(kind: Any) -> bool:
    return kind is None or kind is dict or isinstance(kind, str)


def _schema(kind: Any, schemas: list[tuple[Any, Any]]) -> dict[str, Any]:
    if kind is dict:
        return {"type": "object"}
    found: dict[str, Any] = next(schema for known, schema in schemas if known is kind)
    return found


def _operation(method: str, path: str, known: Operation, schemas: list[tuple[Any, Any]]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "description": PARAMETERS[name], "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    words = re.sub(r"\W+", "_", path).strip("_") or "index"
    slash = "_slash" if len(path) > 1 and path.endswith("/") else ""
    described: dict[str, Any] = {
        "operationId": f"{method.lower()}_{words}{slash}",
        "tags": [known.group],
        "summary": known.summary,
        "responses": dict(sorted(_responses(method, known, schemas))),
    }
    if known.names_version:
        parameters.append(KEY)
    if parameters or known.query:
        described["parameters"] = [*parameters, *known.query]
    if known.takes is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _schema(known.takes, schemas), "example": known.example}},
        }
    if known.probe:
        described["security"] = []
    return described


def _responses(method: str, known: Operation, schemas: list[tuple[Any, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(known.gives, str):
        content = {known.gives: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": _schema(known.gives, schemas)}}
    success: dict[str, Any] = {"description": "Taken." if known.success == 202 else "The answer.", "content": content}
    if known.names_version:
        success["headers"] = {VERSION_HEADER: _header("The version that answered.")}
    yield str(known.success), success
    if known.says_no is not None:
        yield str(known.says_no), {"description": "No.", "content": content}
    for status in {*known.errors, *(() if known.probe else (401,)), *((403,) if method == "POST" else ())}:
        yield str(status), {"$ref": f"#/components/responses/Error{status}"}


def _errors(schemas: list[tuple[Any, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    form = {"application/json": {"schema": _schema(replies.ErrorReply, schemas)}}
    for status, description in ERRORS.items():
        answer: dict[str, Any] = {"description": description, "content": form}
        if status == 401:
            answer["headers"] = {"www-authenticate": _header("Bearer.")}
        if status in (429, 503):
            answer["headers"] = {"retry-after": _header("Seconds after which to come back.")}
        yield f"Error{status}", answer


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string"}}


def _replaced(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(inner) for inner in value]
    return value.replace("``", "`") if isinstance(value, str) else value
