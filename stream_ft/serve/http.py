"""The HTTP application: who may ask, what an error looks like, and what is counted."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_ft.errors import MessageTooLargeError, StoreFullError, StreamFTError
from stream_ft.events import Event, Reject
from stream_ft.metrics import Ready, ServeMetrics
from stream_ft.ports import Clock, Outgoing, Record
from stream_ft.serve import console, manual, probes
from stream_ft.serve.batcher import Batcher, ClosedError, DeadlineError, QueueFullError
from stream_ft.serve.body import RefusedError
from stream_ft.serve.catalogue import Catalogue
from stream_ft.serve.inference import Inference
from stream_ft.serve.intake import Intake
from stream_ft.serve.operate import ControlBody, ControlReply, Operate, is_loopback, is_own_name
from stream_ft.serve.predictions_id import PredictionIds
from stream_ft.serve.recent import Recent
from stream_ft.serve.replies import ErrorReply, IndexReply, reply
from stream_ft.serve.slots import Answer, NotReadyError, Version
from stream_ft.serve.trial import Trials
from stream_ft.tracing import Traces

log = logging.getLogger("stream_ft.serve.http")

STATUS: tuple[tuple[type[StreamFTError], int], ...] = (
    (QueueFullError, 429),
    (DeadlineError, 504),
    (NotReadyError, 503),
    (ClosedError, 503),
    (MessageTooLargeError, 413),
    (StoreFullError, 503),
)
"""Answers to errors that say nothing of HTTP themselves; every other is a 500."""

OPEN = frozenset({*probes.OPEN, *console.OPEN})
"""Paths that need no token: the probes, and the console's page, which tells nothing of itself."""

UNKNOWN = "The server could not answer this request."

ROUTE_OF = {
    "/predict": "predict",
    "/feedback": "feedback",
    "/labels": "labels",
    "/control": "control",
    "/status": "status",
    "/console": "console",
    "/versions": "status",
    "/metrics": "metrics",
    "/livez": "probe",
    "/readyz": "probe",
}


def create_app(
    *,
    model: str,
    batcher: Batcher[Answer],
    current: Callable[[], Version | None],
    publish: Callable[[Outgoing], bool],
    append: Callable[[Sequence[Outgoing]], Awaitable[list[int]]],
    parse: Callable[[Record, float], Event | Reject],
    ids: PredictionIds,
    trials: Trials,
    catalogue: Catalogue,
    recent: Recent,
    command: Callable[[ControlBody], ControlReply],
    metrics: ServeMetrics,
    traces: Traces,
    clock: Clock,
    ready: Ready,
    alive: Callable[[], bool],
    token: str = "",
    max_inputs: int = 256,
    max_body_bytes: int = 1_000_000,
    timeout_s: float = 10.0,
) -> Guard:
    """The application of one model.

    Args:
        model: name in URLs and topics.
        batcher: answers texts.
        current: the version that answers now.
        publish: appends in passing (predictions).
        append: appends durably (feedback, labels).
        parse: ingest's check of one record's bytes.
        ids: makes and recognises prediction ids.
        trials: deals requests between champion and challenger.
        catalogue: the routes that tell of versions and state.
        recent: the route of what was said last.
        command: appends an operator's message to the control log.
        traces: where spans go.
        ready, alive: what the probes ask.
        token: if set, everything but :data:`OPEN` needs it.
        max_inputs: most texts in one request.
        max_body_bytes: largest body.
        timeout_s: within which a body must have come.
    """
    inference = Inference(
        model=model,
        batcher=batcher,
        current=current,
        publish=publish,
        ids=ids,
        trials=trials,
        metrics=metrics,
        traces=traces,
        clock=clock,
        max_inputs=max_inputs,
        max_body_bytes=max_body_bytes,
        timeout_s=timeout_s,
    )
    intake = Intake(
        model=model,
        append=append,
        parse=parse,
        ids=ids,
        metrics=metrics,
        traces=traces,
        clock=clock,
        max_body_bytes=max_body_bytes,
        timeout_s=timeout_s,
    )
    operate = Operate(command, token=bool(token), max_body_bytes=max_body_bytes, timeout_s=timeout_s)
    routes = [
        *inference.routes(),
        *intake.routes(),
        *recent.routes(),
        *operate.routes(),
        *catalogue.routes(),
        *probes.routes(metrics.registry, ready=ready, alive=alive),
        *manual.routes(),
        *console.routes(),
    ]
    routes.append(Route("/", _index(model, list(routes)), methods=["GET"]))
    app = Starlette(
        routes=routes,
        exception_handlers={HTTPException: _http_error, StreamFTError: _known_error, Exception: _unknown_error},
    )
    app.router.redirect_slashes = False
    return Guard(app, routes=routes, metrics=metrics, token=token)


class Guard:
    """Around the application: the token, the origin, one count per answer, and no traceback for anybody.

    Args:
        app: what is guarded.
        routes: what is mounted in it.
        token: if set, everything but :data:`OPEN` needs ``Authorization: Bearer TOKEN``.
    """

    def __init__(self, app: ASGIApp, *, routes: Sequence[Route], metrics: ServeMetrics, token: str) -> None:
        self._app = app
        self.routes = tuple(routes)
        self._metrics = metrics
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope)
        try:
            await (refusal or self._app)(scope, receive, counted)
        except Exception as error:  # the process boundary: the client gets one sentence, the log the place
            log.error("a request failed", exc_info=error)
            if not status:
                await _error(500, UNKNOWN)(scope, receive, counted)
        finally:
            self._metrics.request(route_of(scope["path"]), status or 500)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = {name: value for name, value in scope["headers"] if name in (b"authorization", b"origin", b"host")}
        if self._token and scope["path"] not in OPEN:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                response = _error(401, "This server needs a token.", "Send the header Authorization: Bearer TOKEN.")
                response.headers["www-authenticate"] = "Bearer"
                return response
        # A page of another site, open in a browser on this machine, must not be able to read what users said, nor to
        # teach the model: not from its own name, nor by having that name point to this machine.
        if not self._token and scope["path"] not in OPEN and is_loopback((scope.get("client") or ("",))[0]):
            host = headers.get(b"host", b"").decode("latin-1")
            if not is_own_name(host):
                return _error(
                    403,
                    f"Without a token, callers here name it localhost or by its address, not {host[:100]!r}.",
                    "Do so, or set serve.token and send it.",
                )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and scope["method"] not in ("GET", "HEAD") and not _same_host(origin, headers.get(b"host", b"")):
            return _error(403, "Requests from pages of other sites are not accepted.")
        return None


def route_of(path: str) -> str:
    """The metric label of a path, one of :data:`stream_ft.metrics.labels.ROUTES`."""
    if path.startswith("/v2"):
        return "infer" if path.endswith("/infer") else "probe" if path.startswith("/v2/health/") else "other"
    if path.startswith("/versions/"):
        return "status"
    return ROUTE_OF.get(path, "other")


def _same_host(origin: str, host: bytes) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.decode("latin-1").lower()
    except ValueError:
        return False


def _error(status: int, message: str, remedy: str = "") -> Response:
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return reply(ErrorReply(error=f"{message} {remedy}".strip()), status, headers)


async def _known_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StreamFTError)
    if isinstance(error, RefusedError):
        return _error(error.status, error.message, error.remedy)
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    return _error(status, error.message, error.remedy)


async def _unknown_error(request: Request, error: Exception) -> Response:
    return _error(500, UNKNOWN)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _error(404, "There is nothing at this path.", "GET / lists what there is.")
    response = _error(error.status_code, f"{error.detail}.")
    response.headers.update(error.headers or {})
    return response


def _index(model: str, routes: Sequence[Route]) -> Callable[[Request], Awaitable[Response]]:
    paths: dict[str, list[str]] = {}
    for route in routes:
        paths.setdefault(route.path, []).extend(sorted((route.methods or set()) - {"HEAD"}))

    async def index(request: Request) -> Response:
        return reply(
            IndexReply(
                service="stream_ft",
                model=model,
                endpoints=[f"{method} {path}" for path, methods in paths.items() for method in methods],
                example='curl -d \'{"inputs": "where is my parcel?"}\' -H "content-type: application/json" '
                + f"{request.base_url}predict",
            )
        )

    return index
