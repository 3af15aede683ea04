"""What there is: ``GET /versions``, one of them, and ``GET /status``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stream_ft.errors import ArtifactError
from stream_ft.release import dossier
from stream_ft.release.fold import State
from stream_ft.release.heads import released
from stream_ft.release.manifest import NAME, check
from stream_ft.serve.body import RefusedError
from stream_ft.serve.replies import HeadReply, StatusReply, VersionReply, VersionsReply, reply

DEFAULT_LIMIT = 100
"""Versions listed unless the request says ``?limit=``."""
MOST_CACHED = 2_000


class Artifacts(Protocol):
    """Where heads and bases are read from."""

    def get_head(self, sha256: str) -> bytes:
        """The bytes of a head.

        Raises:
            ArtifactError: missing, or not the bytes of that name.
        """
        ...

    def get(self, sha256: str) -> dict[str, bytes]:
        """All files of a base.

        Raises:
            ArtifactError: missing, or not the bytes of that name.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One release in the history, with the name that it served under."""

    name: str
    epoch: int
    base: str
    start_head: str

    def logged(self) -> dict[str, object]:
        """What a log line says of it."""
        return {"version": self.name, "epoch": self.epoch, "base": self.base, "head": self.start_head}


def releases(state: State, limit: int | None = None) -> list[Listed]:
    """The newest ``limit`` releases with their names, oldest first: ``v{base number}.{epoch}.0``."""
    history = state.history if limit is None else state.history[-limit:]
    return [
        Listed(
            name=f"v{state.numbers[release.base]}.{epoch}.0",
            epoch=epoch,
            base=release.base,
            start_head=release.start_head,
        )
        for epoch, release in history
    ]


class Catalogue:
    """The routes that tell of versions and state.

    Args:
        model: name of the model.
        artifacts: where the dossiers and manifests are.
        state: the control log as this replica has folded it.
        active: name of the version that answers; ``""`` for none.
        newest_head: name and dossier of the newest head of the fast tier; an empty name for none.
        status: this process' own words for ``/status``.
        learner_status: what the learner says of itself, as JSON; called off the event loop. ``OSError`` if it cannot
            be had.
    """

    def __init__(
        self,
        *,
        model: str,
        artifacts: Artifacts,
        state: Callable[[], State],
        active: Callable[[], str],
        newest_head: Callable[[], tuple[str, dossier.Dossier]],
        status: Callable[[], dict[str, Any]],
        learner_status: Callable[[], bytes],
    ) -> None:
        self._model = model
        self._artifacts = artifacts
        self._state = state
        self._active = active
        self._newest_head = newest_head
        self._status = status
        self._learner_status = learner_status
        self._dossiers: dict[str, dict[str, Any]] = {}
        self._manifests: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[Route]:
        """What to mount."""
        return [
            Route("/versions", self.versions, methods=["GET"]),
            Route("/versions/{name}", self.version, methods=["GET"]),
            Route("/status", self.status, methods=["GET"]),
        ]

    async def versions(self, request: Request) -> Response:
        """The newest releases, oldest first, each with its dossier."""
        text = request.query_params.get("limit", str(DEFAULT_LIMIT))
        if not (text.isascii() and text.isdigit()) or len(text) > 6 or int(text) < 1:
            raise RefusedError(400, "limit must be a number from 1 on.")
        state = self._state()
        rows = releases(state, int(text))
        described = await asyncio.to_thread(lambda: [self._describe(row, state) for row in rows])
        active = self._active()
        return reply(
            VersionsReply(
                model=self._model, active=active, wanted=state.version, versions=described, head=self._head(active)
            )
        )

    async def version(self, request: Request) -> Response:
        """One release by its name, with the manifest of its base."""
        state = self._state()
        for row in reversed(releases(state)):
            if row.name == request.path_params["name"]:
                return reply(await asyncio.to_thread(self._described_whole, row, state))
        raise RefusedError(404, "There is no version of this name.", "GET /versions lists those that there are.")

    async def status(self, request: Request) -> Response:
        """This process' state, and what the learner last wrote of its own."""
        learner = await asyncio.to_thread(self._read_learner)
        return reply(StatusReply(model=self._model, serve=self._status(), learn=learner))

    def _head(self, active: str) -> HeadReply | UnsetType:
        name, told = self._newest_head()
        if not name or name != active:
            return UNSET
        return HeadReply(
            version=name,
            examples_upto=told.examples_upto,
            offsets=told.offsets,
            train_examples=told.train_examples,
            created=told.created,
        )

    def _describe(self, row: Listed, state: State) -> VersionReply:
        return VersionReply(
            version=row.name,
            epoch=row.epoch,
            base=row.base,
            start_head=row.start_head,
            active=row.name == released(self._active()),
            denied=row.base in state.denied,
            **self._dossier(row.start_head),
        )

    def _described_whole(self, row: Listed, state: State) -> VersionReply:
        try:
            manifest: dict[str, Any] | UnsetType = self._manifest(row.base) or UNSET
        except ArtifactError:  # the files are gone or damaged: `kept` and `missing` tell of the head's
            manifest = UNSET
        return msgspec.structs.replace(self._describe(row, state), manifest=manifest)

    def _manifest(self, base: str) -> dict[str, Any]:
        """Once every file was found as it says; empty for a base that has none, as the first."""
        if base not in self._manifests:
            files = self._artifacts.get(base)
            found = msgspec.to_builtins(check(files)) if NAME in files else {}
            if len(self._manifests) >= MOST_CACHED:
                self._manifests.clear()
            self._manifests[base] = found
        return self._manifests[base]

    def _dossier(self, sha256: str) -> dict[str, Any]:
        """A head never changes, so its dossier is read once; one that has been deleted may not come back."""
        if sha256 not in self._dossiers:
            try:
                told = dossier.read(self._artifacts.get_head(sha256))
            except ArtifactError as error:
                return {"kept": False, "missing": error.message}
            if len(self._dossiers) >= MOST_CACHED:
                self._dossiers.clear()
            self._dossiers[sha256] = {"kept": True, **msgspec.structs.asdict(told)}
        return self._dossiers[sha256]

    def _read_learner(self) -> Any:
        try:
            return json.loads(self._learner_status())
        except (OSError, ValueError, RecursionError):
            return None
