"""The first entry of a control log: an unchanged base and a head that knows no label."""

from __future__ import annotations

import uuid

import msgspec

from stream_ft import control
from stream_ft.model.base import BaseFolder, base_files
from stream_ft.model.heads import Head
from stream_ft.ports import EventLog, Outgoing
from stream_ft.release import dossier
from stream_ft.release.registry import Registry
from stream_ft.topics import topic


def artifacts(registry: Registry, base: BaseFolder, *, dim: int) -> tuple[str, str]:
    """Put what a genesis names into ``registry``: sha256 of the base, and of the head."""
    head = dossier.stamp(Head.empty(dim).to_bytes(), dossier.Dossier())
    return registry.put(base_files(base)), registry.put_head(head)


def ensure(log: EventLog, registry: Registry, base: BaseFolder, *, model: str, dim: int, now: float) -> None:
    """Write the genesis of ``model``'s control log if nobody has.

    Two processes that start together may both write one; the fold refuses the second, and both name the same bytes.
    """
    name = topic(model, "control")
    base_sha, head_sha = artifacts(registry, base, dim=dim)
    if log.bounds(name, 0) != (0, 0):
        return
    message = control.new(
        control.Genesis, by="operator/genesis", now=now, log_id=uuid.uuid4().hex, base=base_sha, start_head=head_sha
    )
    log.append([Outgoing(topic=name, value=msgspec.json.encode(message))])
