"""Probes and metrics: what an orchestrator and Prometheus ask."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_ft.metrics import Ready, render
from stream_ft.serve.replies import LiveReply, ReadyReply, reply

OPEN = ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready")
"""Paths that need no token."""


def routes(registry: CollectorRegistry, *, ready: Ready, alive: Callable[[], bool]) -> list[Route]:
    """``/livez``, ``/readyz``, their names in the Open Inference Protocol, and ``/metrics``."""

    async def livez(request: Request) -> Response:
        live = alive()
        return reply(LiveReply(live=live), 200 if live else 500)

    async def readyz(request: Request) -> Response:
        is_ready, reason = ready()
        if is_ready:
            return reply(ReadyReply(ready=True))
        return reply(ReadyReply(ready=False, reason=reason), 503)

    async def metrics(request: Request) -> Response:
        return Response(render(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return [
        Route("/livez", livez, methods=["GET"]),
        Route("/readyz", readyz, methods=["GET"]),
        Route("/v2/health/live", livez, methods=["GET"]),
        Route("/v2/health/ready", readyz, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
    ]
