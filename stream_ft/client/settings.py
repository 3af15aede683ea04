"""What a client is told: the server, the token, the deadline of a call."""

from __future__ import annotations

import math

import httpx

from stream_ft import __version__
from stream_ft.errors import ConfigError

URL = "http://127.0.0.1:8080"
DEADLINE_S = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Settings:
    """What both drivers are told, checked.

    Raises:
        ConfigError: the URL, the token or the deadline cannot be used.
    """

    def __init__(self, url: str, token: str, deadline_s: float) -> None:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigError(f"{url!r} is no URL.", f"Write it like {URL}.") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"{url!r} is no http or https URL.", f"Write it like {URL}.")
        if not (token.isascii() and token.isprintable()) or " " in token:
            raise ConfigError("The token has a character that no header can carry.", "Is there a line break in it?")
        self.url = parsed
        self.where = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        self.headers = {"user-agent": f"stream-ft/{__version__}"}
        if token:
            self.headers["authorization"] = f"Bearer {token}"
        # A proxy of the environment is not for a server on this machine.
        self.trust_env = parsed.host not in LOOPBACK
        self.deadline_s = checked_deadline(deadline_s)


def checked_deadline(deadline_s: float) -> float:
    """``deadline_s`` if a call can have it.

    Raises:
        ConfigError: it is not positive or not finite.
    """
    if not (math.isfinite(deadline_s) and deadline_s > 0):
        raise ConfigError(f"deadline_s is {deadline_s:g}.", "Give the seconds that a call may take, above 0.")
    return deadline_s
