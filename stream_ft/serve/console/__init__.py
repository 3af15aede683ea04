"""The console: ``GET /console``, one page for whoever runs the model.

The page is text that is the same for everybody: it tells nothing and needs no token. What it shows it asks for with the
token that its reader gives it, by the routes that every client has.

Its script and its style are in the page, and named in the Content-Security-Policy by their hashes: nothing else of
either kind runs, nothing is loaded from elsewhere, and no text can become markup (``require-trusted-types-for``).
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OPEN = ("/console",)
"""Paths that need no token."""


def routes() -> list[Route]:
    """What to mount."""
    page, policy = assemble()
    body = page.encode()
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    async def console(request: Request) -> Response:
        return Response(body, media_type="text/html", headers=headers)

    return [Route("/console", console, methods=["GET"])]


def assemble() -> tuple[str, str]:
    """The page, and the policy under which it is to be shown."""
    folder = files("stream_ft.serve.console")
    style, script, page = (
        folder.joinpath(f"console.{kind}").read_text(encoding="utf-8") for kind in ("css", "js", "html")
    )
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(script)}",
            f"style-src {_source(style)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )
    return page.replace("/*style*/", style).replace("/*script*/", script), policy


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
