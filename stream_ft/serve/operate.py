"""An operator's commands over HTTP: ``POST /control``. Each becomes one message on the control log.

The serving process only passes them on. Whether one is accepted is decided by the fold, as for a command from the
command line, and every replica takes it from the log.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_ft.events import Identifier
from stream_ft.serve import body
from stream_ft.serve.body import RefusedError
from stream_ft.serve.replies import reply

NAMES = frozenset({"localhost"})
"""Under which a browser on this machine may call this server. Another name may be anybody's that points here."""


class ControlBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One command."""

    type: Literal["rollback", "pin", "unpin", "pause", "resume", "train_now", "label_add", "canary", "shadow"]
    id: Annotated[Identifier | None, Meta(description="Sent again under the same id, a command counts once.")] = None
    to: Annotated[
        str, Meta(min_length=1, max_length=100, description="Of a rollback: an epoch, a version, or previous.")
    ] = "previous"
    reason: Annotated[str, Meta(max_length=500, description="Of a rollback; it stays on the log.")] = ""
    label: Annotated[str, Meta(max_length=200, description="Of label_add.")] = ""
    version: Annotated[
        str,
        Meta(
            max_length=100,
            description="Of canary and shadow: a version, an epoch, or a base, eight digits of its hash or more. "
            "Without it, share 0 ends the trial.",
        ),
    ] = ""
    share: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Of a canary, which needs it: of the keys. Of a shadow: of the requests, all by default."),
    ] = None
    head: Annotated[
        str, Meta(max_length=64, description="Of canary and shadow: another head than the base's newest.")
    ] = ""


class ControlReply(Struct, frozen=True, kw_only=True):
    """The command was accepted, and this is in force now."""

    version: Annotated[str, Meta(description="What every replica takes from the log.")]
    epoch: int
    before: Annotated[str, Meta(description="The version before the command.")]
    pinned: bool
    paused: bool


class CommandRefused(RefusedError):
    """The log refuses a command: 409."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(409, message, remedy)


class Operate:
    """The route of commands.

    Args:
        command: appends the message and says what became of it; called off the event loop. Raises
            :class:`CommandRefused`, or another error of ours.
        token: whether one is set. Without it, commands are taken from this machine alone: everybody else would be an
            operator.
        max_body_bytes, timeout_s: limits of the body.
    """

    def __init__(
        self, command: Callable[[ControlBody], ControlReply], *, token: bool, max_body_bytes: int, timeout_s: float
    ) -> None:
        self._command = command
        self._token = token
        self._max_body_bytes = max_body_bytes
        self._timeout_s = timeout_s

    def routes(self) -> list[Route]:
        """What to mount."""
        return [Route("/control", self.control, methods=["POST"])]

    async def control(self, request: Request) -> Response:
        """One command."""
        if not self._token and not _from_here(request):
            raise RefusedError(
                403,
                "Without a token, commands are taken from this machine alone.",
                "Set serve.token, and send it, or use stream-ft control.",
            )
        data = await body.read(request, limit=self._max_body_bytes, timeout_s=self._timeout_s)
        asked: ControlBody = body.decode(data, ControlBody)
        return reply(await asyncio.to_thread(self._command, asked))


def _from_here(request: Request) -> bool:
    """By its address and by the name that it calls us by, so that no other site can lend its name to this machine."""
    peer = request.client.host if request.client is not None else ""
    return is_loopback(peer) and is_own_name(request.headers.get("host", ""))


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine."""
    found = _address(address)
    return found is not None and found.is_loopback


def is_own_name(host: str) -> bool:
    """Whether a ``Host`` header has one of :data:`NAMES` or an address: nobody else can make these point here."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in NAMES or _address(name) is not None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:  # a name
        return None
