"""A client in Python: ask, say what was right, publish labels, look, and command.

:class:`Client` and :class:`AsyncClient` speak HTTP to a server; :class:`Control` writes an operator's commands to the
control log of a state folder, without one. Importing this package loads no model and no server.
"""

from __future__ import annotations

from stream_ft.client.control import Control
from stream_ft.client.errors import ClientError, CommandRefusedError, DeadlineError, RefusedError, UnavailableError
from stream_ft.client.http import AsyncClient, Client
from stream_ft.client.results import Accepted, Answer, InForce, Status, Version, Versions

__all__ = [
    "Accepted",
    "Answer",
    "AsyncClient",
    "Client",
    "ClientError",
    "CommandRefusedError",
    "Control",
    "DeadlineError",
    "InForce",
    "RefusedError",
    "Status",
    "UnavailableError",
    "Version",
    "Versions",
]
