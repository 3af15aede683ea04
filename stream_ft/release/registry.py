"""Adapters and heads on disk, each named by the sha256 of its content.

Under ``root``: ``bases/<sha256>/`` are folders, ``heads/<sha256>.safetensors`` are files, ``.tmp-*`` is what a process
was writing. A name appears by one rename after everything was fsynced, so what can be seen is whole; what is read is
hashed before it is used, from the very bytes that were read.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

from stream_ft import failpoints
from stream_ft.errors import ArtifactError, StoreFullError

_SHA = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_TEMP = re.compile(r"\.tmp-([0-9a-f]{12})-(\d+)-[0-9a-f]+")
_Names = list[str]
_writing: set[str] = set()
"""Temporary names of this process: one with our pid that is not here was left by a process before us."""
_HERE = sha256(socket.gethostname().encode()).hexdigest()[:12]
"""Which machine or container: several may share the directory, and a pid means something on one alone."""
STALE_S = 86_400.0
"""What was begun elsewhere so long ago was left by a machine that is gone: nothing takes so long to write."""


def folder_sha256(files: dict[str, bytes]) -> str:
    """Name of a folder: the sha256 over its lines ``<sha256 of the file>  <name>\\n``, by name.

    The same as ``LC_ALL=C sha256sum * | sha256sum`` in the folder.
    """
    lines = (f"{sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return sha256("".join(lines).encode()).hexdigest()


class Registry:
    """An :class:`stream_ft.ports.AdapterStore` on a directory, with the heads beside it.

    Processes may share the directory, also those of several machines. Opening removes what a killed process of this
    machine left half-written, and what has lain so for a day.

    Args:
        root: the directory; made if it is not there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._bases = root / "bases"
        self._heads = root / "heads"
        for folder in (self._bases, self._heads):
            folder.mkdir(parents=True, exist_ok=True)
        for left in root.iterdir():
            match = _TEMP.fullmatch(left.name)
            if match is None or left.name in _writing:
                continue
            if not _alive(int(match[2])) if match[1] == _HERE else _stale(left):
                _remove(left)

    # --- bases -------------------------------------------------------------------------------------------------

    def put(self, files: dict[str, bytes]) -> str:
        """Write a folder (temp, fsync, rename) and return its sha256. Writing the same twice is harmless.

        Raises:
            ArtifactError: a name is not a plain file name.
            StoreFullError: the disk is full or failed; nothing is visible.
        """
        for name in files:
            if not _FILE.fullmatch(name):
                raise ArtifactError("manifest", f"{name!r} cannot be the name of a file in an adapter folder.")
        name = folder_sha256(files)
        target = self._bases / name
        if target.exists():
            try:
                self.get(name)
                return name
            except ArtifactError:
                self._discard(target)  # damaged on disk; what is at hand is right, its hash says so
        with self._temporary() as temp:
            temp.mkdir()
            for file, data in files.items():
                _write(temp / file, data)
            _sync(temp)
            self._publish(temp, target)
        return name

    def get(self, sha256: str) -> dict[str, bytes]:
        """All files of a folder, verified against the name.

        Raises:
            ArtifactError: ``missing``, or ``hash``: the bytes do not hash to the name.
        """
        folder = self.path(sha256)
        try:
            entries = sorted(folder.iterdir())
            if any(not entry.is_file() or entry.is_symlink() for entry in entries):
                raise ArtifactError("hash", f"Base {sha256[:12]} holds something that is not a plain file.", _DAMAGED)
            files = {entry.name: entry.read_bytes() for entry in entries}
        except FileNotFoundError as error:
            raise ArtifactError("missing", f"Base {sha256[:12]} is not in {self._bases}.", _MISSING) from error
        if folder_sha256(files) != sha256:
            raise ArtifactError("hash", f"The files of base {sha256[:12]} do not hash to its name.", _DAMAGED)
        return files

    def list(self) -> list[str]:
        """Names of the folders that are complete, sorted."""
        return sorted(entry.name for entry in self._bases.iterdir() if _SHA.fullmatch(entry.name))

    def delete(self, sha256: str) -> None:
        """Remove a folder; unknown names are ignored. It vanishes at once, never file by file."""
        self._discard(self.path(sha256))

    def path(self, sha256: str) -> Path:
        """Where a folder lies, or would.

        Raises:
            ArtifactError: ``missing``: that is no sha256.
        """
        return self._bases / _checked(sha256)

    # --- heads -------------------------------------------------------------------------------------------------

    def put_head(self, head: bytes) -> str:
        """Write a head (temp, fsync, rename) and return its sha256. Writing the same twice is harmless.

        Raises:
            StoreFullError: the disk is full or failed; nothing is visible.
        """
        name = sha256(head).hexdigest()
        target = self.head_path(name)
        try:
            if target.read_bytes() == head:
                return name
        except FileNotFoundError:
            pass
        with self._temporary() as temp:
            _write(temp, head)
            self._publish(temp, target)
        return name

    def get_head(self, sha256: str) -> bytes:
        """A head, verified against its name.

        Raises:
            ArtifactError: ``missing`` or ``hash``.
        """
        try:
            head = self.head_path(sha256).read_bytes()
        except FileNotFoundError as error:
            raise ArtifactError("missing", f"Head {sha256[:12]} is not in {self._heads}.", _MISSING) from error
        if _digest(head) != sha256:
            raise ArtifactError("hash", f"The bytes of head {sha256[:12]} do not hash to its name.", _DAMAGED)
        return head

    def list_heads(self) -> _Names:
        """Names of the heads, sorted."""
        names = (entry.name.removesuffix(".safetensors") for entry in self._heads.iterdir())
        return sorted(name for name in names if _SHA.fullmatch(name))

    def delete_head(self, sha256: str) -> None:
        """Remove a head; unknown names are ignored."""
        self.head_path(sha256).unlink(missing_ok=True)

    def head_path(self, sha256: str) -> Path:
        """Where a head lies, or would.

        Raises:
            ArtifactError: ``missing``: that is no sha256.
        """
        return self._heads / f"{_checked(sha256)}.safetensors"

    # --- writing -----------------------------------------------------------------------------------------------

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A name to write under, on the same file system. What is left there at the end is removed."""
        temp = self._root / f".tmp-{_HERE}-{os.getpid()}-{uuid4().hex}"
        _writing.add(temp.name)
        try:
            yield temp
        except OSError as error:
            raise StoreFullError(
                f"The registry cannot write to {self._root}: {error.strerror or error}.",
                "Free some disk space, or move the state folder to another disk.",
            ) from error
        finally:
            _remove(temp)
            _writing.discard(temp.name)

    def _publish(self, temp: Path, target: Path) -> None:
        failpoints.hit("release.before_rename")
        try:
            temp.rename(target)
        except OSError:
            # Another process was first with the same content, and a folder is not renamed over one that is there.
            if not target.is_dir():
                raise
        failpoints.hit("release.after_rename")
        _sync(target.parent)

    def _discard(self, target: Path) -> None:
        with self._temporary() as temp:
            try:
                target.rename(temp)
            except FileNotFoundError:
                return
            _sync(target.parent)


_MISSING = "`stream-ft adapters list` shows the versions that can be had."
_DAMAGED = "Roll back to another version, and restore this one from a copy."


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def _checked(name: str) -> str:
    if not _SHA.fullmatch(name):
        raise ArtifactError("missing", f"{name[:80]!r} is not the sha256 of an artifact.", _MISSING)
    return name


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        failpoints.hit("release.before_fsync")
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """fsync of a directory: its names are as durable as its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return False  # not in `_writing`: left by an earlier process that had our pid, as in a container
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _stale(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
