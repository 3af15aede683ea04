"""Makes the redactor that the settings ask for."""

from __future__ import annotations

from stream_ft.config import Settings
from stream_ft.errors import ConfigError
from stream_ft.ingest.receive import Redact


def redaction(settings: Settings) -> Redact | None:
    """What replaces personal data; ``None`` where that is off.

    Raises:
        ConfigError: the kinds or the region cannot be used.
    """
    chosen = settings.ingest
    if not chosen.redact:
        return None
    from stream_ft.ingest.redact import Redactor  # the tables of telephone numbers take a tenth of a second

    kinds = [kind.strip() for kind in chosen.redact_kinds.split(",") if kind.strip()]
    try:
        return Redactor(kinds, region=chosen.phone_region).event
    except ValueError as error:
        raise ConfigError(f"Setting ingest: {error}.", "See stream-ft config show.") from error
