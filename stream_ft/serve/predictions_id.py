"""Identities of predictions: anybody may quote one, only this service can make one.

``p-<uuid hex>-<mac>``, with the mac an HMAC-SHA256 of the uuid, cut to 64 bits. So feedback is checked without a
table of what was issued, also after a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import uuid
from pathlib import Path

from stream_ft.errors import ConfigError

KEY_BYTES = 32
MAC_HEX = 16
SHAPE = re.compile(r"p-([0-9a-f]{32})-([0-9a-f]{16})", re.ASCII)


class PredictionIds:
    """Makes and recognises ids.

    Args:
        key: secret of this service; replicas of one model share it.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self) -> str:
        """A new id."""
        name = uuid.uuid4().hex
        return f"p-{name}-{self._mac(name)}"

    def issued(self, value: str) -> bool:
        """True if this service made ``value``."""
        match = SHAPE.fullmatch(value)
        return match is not None and hmac.compare_digest(self._mac(match[1]), match[2])

    def _mac(self, name: str) -> str:
        return hmac.digest(self._key, name.encode(), hashlib.sha256).hex()[:MAC_HEX]


def load_key(path: Path) -> bytes:
    """The key in ``path`` (hex, mode 0600); made at the first start.

    Raises:
        ConfigError: the file holds something else.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    if not path.exists():
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, it never replaces a key that another replica has just made
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise ConfigError(
            f"{path} is not a key.", "Remove it: a new one is made, and older predictions take no feedback."
        ) from error
    if len(key) < KEY_BYTES:
        raise ConfigError(f"The key in {path} is too short.", "Remove it: a new one is made.")
    return key
