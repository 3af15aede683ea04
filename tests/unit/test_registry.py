"""The registry: whole or not there, and never other bytes than the name says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from stream_ft.errors import ArtifactError, StoreFullError
from stream_ft.release import registry as module
from stream_ft.release.registry import Registry, folder_sha256

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(range(256)) * 40}
NOBODY = "f" * 64
DEAD_PID = 2**22 + 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(root)


def step_of(call: object, *args: object) -> str:
    with pytest.raises(ArtifactError) as caught:
        call(*args)  # type: ignore[operator]
    assert caught.value.remedy
    return caught.value.step


def test_what_was_put_comes_back(registry: Registry) -> None:
    name = registry.put(FILES)
    assert registry.get(name) == FILES
    assert registry.list() == [name]
    assert {p.name for p in registry.path(name).iterdir()} == set(FILES)


def test_the_name_is_that_of_sha256sum(registry: Registry) -> None:
    lines = [f"{sha256(data).hexdigest()}  {name}\n" for name, data in sorted(FILES.items())]
    assert registry.put(FILES) == sha256("".join(lines).encode()).hexdigest()


def test_the_name_depends_on_names_and_bytes_and_not_on_the_order() -> None:
    name = folder_sha256({"a": b"1", "b": b"2"})
    assert folder_sha256({"b": b"2", "a": b"1"}) == name
    assert len({name, folder_sha256({"a": b"2", "b": b"1"}), folder_sha256({"a": b"1"}), folder_sha256({})}) == 4


def test_putting_twice_is_harmless(registry: Registry, root: Path) -> None:
    assert registry.put(FILES) == registry.put(FILES)
    assert registry.put_head(b"head") == registry.put_head(b"head")
    assert sorted(p.name for p in root.iterdir()) == ["bases", "heads"]


def test_heads_come_back_and_are_files_of_their_own(registry: Registry) -> None:
    name = registry.put_head(b"head")
    assert name == sha256(b"head").hexdigest()
    assert registry.get_head(name) == b"head"
    assert registry.head_path(name).read_bytes() == b"head"
    assert registry.list_heads() == [name]
    assert registry.list() == []


def test_what_is_not_there_is_missing(registry: Registry) -> None:
    assert step_of(registry.get, NOBODY) == "missing"
    assert step_of(registry.get_head, NOBODY) == "missing"
    registry.delete(NOBODY)
    registry.delete_head(NOBODY)


def test_what_was_deleted_is_missing_and_nothing_else(registry: Registry, root: Path) -> None:
    gone, kept = registry.put(FILES), registry.put({"a": b"1"})
    head = registry.put_head(b"head")
    registry.delete(gone)
    registry.delete_head(head)
    assert step_of(registry.get, gone) == "missing"
    assert step_of(registry.get_head, head) == "missing"
    assert registry.list() == [kept]
    assert sorted(p.name for p in root.iterdir()) == ["bases", "heads"]


@pytest.mark.parametrize("damage", ["bit", "cut", "padded", "more", "less", "renamed", "folder", "link"])
def test_a_damaged_folder_is_refused(registry: Registry, tmp_path: Path, damage: str) -> None:
    name = registry.put(FILES)
    file = registry.path(name) / "adapter_model.safetensors"
    data = file.read_bytes()
    if damage == "bit":
        file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "cut":
        file.write_bytes(data[:-1])
    elif damage == "padded":
        file.write_bytes(data + b"\0")
    elif damage == "more":
        (file.parent / "extra").write_bytes(b"")
    elif damage == "less":
        file.unlink()
    elif damage == "renamed":
        file.rename(file.parent / "other.safetensors")
    elif damage == "folder":
        (file.parent / "sub").mkdir()
    else:
        (tmp_path / "elsewhere").write_bytes(data)
        file.unlink()
        file.symlink_to(tmp_path / "elsewhere")
    assert step_of(registry.get, name) == "hash"
    assert registry.put(FILES) == name, "putting it again mends it"
    assert registry.get(name) == FILES


def test_a_damaged_head_is_refused_and_mended(registry: Registry) -> None:
    name = registry.put_head(b"head")
    registry.head_path(name).write_bytes(b"heaD")
    assert step_of(registry.get_head, name) == "hash"
    registry.put_head(b"head")
    assert registry.get_head(name) == b"head"


@pytest.mark.parametrize(
    "name", ["", "..", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n", "/etc/passwd"]
)
def test_only_hashes_are_names(registry: Registry, name: str) -> None:
    for call in (registry.get, registry.get_head, registry.delete, registry.delete_head, registry.path):
        assert step_of(call, name) == "missing"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x", "a\n", ".hidden", "a\0b", "ä"])
def test_only_plain_names_are_written(registry: Registry, root: Path, name: str) -> None:
    with pytest.raises(ArtifactError):
        registry.put({"fine": b"", name: b"x"})
    assert registry.list() == []
    assert sorted(p.name for p in root.iterdir()) == ["bases", "heads"]


@pytest.mark.parametrize("point", ["release.before_fsync", "release.before_rename", "release.after_rename"])
@pytest.mark.parametrize("what", ["put", "put_head"])
def test_a_kill_leaves_all_or_nothing(root: Path, tmp_path: Path, point: str, what: str) -> None:
    value = "b'head'" if what == "put_head" else "{'a': b'1', 'b': b'2'}"
    imports = "from pathlib import Path; from stream_ft.release.registry import Registry"
    code = f"{imports}; Registry(Path({str(root)!r})).{what}({value})"
    reached = tmp_path / "reached"
    environment = os.environ | {"STREAM_FT_FAILPOINT": f"{point}:kill", "STREAM_FT_FAILPOINT_LOG": str(reached)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert reached.read_text() == f"{point}\n"
    again = Registry(root)
    whole = point == "release.after_rename"
    assert len(again.list() if what == "put" else again.list_heads()) == whole
    assert sorted(p.name for p in root.iterdir()) == ["bases", "heads"], "what was half-written is removed"
    name = again.put({"a": b"1", "b": b"2"}) if what == "put" else again.put_head(b"head")
    assert (again.get(name) if what == "put" else again.get_head(name)) in ({"a": b"1", "b": b"2"}, b"head")


def test_what_a_living_process_is_writing_is_left_alone(root: Path) -> None:
    Registry(root)
    ours = root / f".tmp-{module._HERE}-{os.getppid()}-00"
    left = root / f".tmp-{module._HERE}-{DEAD_PID}-00"
    own = (
        root / f".tmp-{module._HERE}-{os.getpid()}-00"
    )  # by a process before us with our pid, as in a restarted container
    for folder in (ours, left, own):
        folder.mkdir()
        (folder / "part").write_bytes(b"x")
    Registry(root)
    assert ours.exists()
    assert not left.exists()
    assert not own.exists()


def test_what_another_machine_is_writing_is_left_alone_until_it_is_stale(root: Path) -> None:
    """A registry shared by containers: the learner writes while a replica starts, and their pids mean nothing here."""
    Registry(root)
    elsewhere = root / f".tmp-{'e' * 12}-{DEAD_PID}-00"
    gone = root / f".tmp-{'e' * 12}-{DEAD_PID}-01"
    for folder in (elsewhere, gone):
        folder.mkdir()
    long_ago = time.time() - module.STALE_S - 60
    os.utime(gone, (long_ago, long_ago))
    Registry(root)
    assert elsewhere.exists()
    assert not gone.exists()


def test_opening_again_while_writing_disturbs_nothing(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module.failpoints, "hit", lambda name: Registry(root) if name == "release.before_rename" else None
    )
    assert registry.get(registry.put(FILES)) == FILES


def test_many_writers_of_the_same_content_agree(registry: Registry, root: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: Registry(root).put(FILES), range(40)))
    assert names == {folder_sha256(FILES)}
    assert registry.get(names.pop()) == FILES
    assert sorted(p.name for p in root.iterdir()) == ["bases", "heads"]


def test_a_full_disk_is_said_and_leaves_nothing(
    registry: Registry, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    for call, value in ((registry.put, FILES), (registry.put_head, b"head")):
        with pytest.raises(StoreFullError, match="No space left"):
            call(value)  # type: ignore[operator]
    assert registry.list() == []
    assert registry.list_heads() == []
    assert sorted(p.name for p in root.iterdir()) == ["bases", "heads"]
