"""Finds a connector by the scheme of its URL in the entry-point group ``stream_ft.connectors``.

A third party registers a scheme of its own without touching this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from stream_ft.errors import ConfigError
from stream_ft.ports import EventLog

GROUP = "stream_ft.connectors"


def open_log(
    url: str, *, folder: Path, writes: Sequence[str], options: Mapping[str, Mapping[str, object]] | None = None
) -> EventLog:
    """The event log behind ``url``.

    Args:
        url: ``sqlite://`` and what other connectors register.
        folder: the state folder of this process.
        writes: the roles (``serve``, ``learn``) whose topics this process appends to, besides the control log.
        options: sections of the settings by scheme; a connector is given its own, or an empty one.

    Raises:
        ConfigError: nobody registered the scheme.
    """
    scheme, separator, _ = url.partition("://")
    found = entry_points(group=GROUP)
    names = sorted({entry.name for entry in found})
    if not separator or scheme not in names:
        raise ConfigError(f"No connector opens {url!r}.", f"Known schemes: {', '.join(names) or 'none'}.")
    connect = next(entry for entry in found if entry.name == scheme).load()
    return cast("EventLog", connect(url, folder=folder, writes=writes, options=(options or {}).get(scheme, {})))
