"""Fault 21: a rollback or a denial that names what is gone, with the real processes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import httpx
import msgspec
from house import MODEL, House, wait_for

from stream_ft import control
from stream_ft.events import to_json
from stream_ft.ports import Outgoing
from stream_ft.release.fold import INITIAL, Entry, State, fold
from stream_ft.release.registry import Registry
from stream_ft.topics import topic

CONTROL = topic(MODEL, "control")


def state(house: House) -> State:
    """The control log, folded."""
    folded = INITIAL
    with house.reading() as log:
        for record in log.read(CONTROL, 0, 0, 1_000):
            folded, _ = fold(folded, Entry(offset=record.offset, appended_at=record.appended_at, value=record.value))
    return folded


def say(house: House, kind: type[control.Command], **fields: Any) -> None:
    """Append a command, as a program of somebody else's may."""
    with house.reading() as log:
        log.append([Outgoing(topic=CONTROL, value=to_json(control.new(kind, by="operator/x", now=1.7e9, **fields)))])


def command(house: House, *words: str) -> subprocess.CompletedProcess[str]:
    """``stream-ft control WORDS``."""
    return subprocess.run(
        house.command("control", *words),
        env=house.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_ready(house: House) -> bool:
    """What the server's probe says now."""
    return httpx.get(f"http://127.0.0.1:{house.port}/readyz", timeout=5.0, trust_env=False).status_code == 200


def test_fault_21_what_is_gone_is_refused_and_a_server_never_stays_on_what_was_withdrawn(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.start("learn")
        house.start("serve")
        house.ready("learn")
        house.ready("serve")
        genesis = wait_for("the learner leads", lambda: (s := state(house)).leader and s)
        assert isinstance(genesis, State)
        registry = Registry(house.state / "registry")

        # The same pretrained model under another name, and heads that differ in a byte of their dossier.
        (marker,) = registry.get(genesis.base).items()
        other = registry.put({marker[0]: marker[1] + b"\n"})
        head = registry.get_head(genesis.start_head)
        heads = [registry.put_head(padded(head, number)) for number in (1, 2)]
        for base, start in ((genesis.base, heads[0]), (other, heads[1])):
            now = state(house)
            say(
                house,
                control.Promote,
                base=base,
                start_head=start,
                parent=now.base,
                expected_epoch=now.epoch,
            )
            wait_for("the promotion answers", lambda: house.version() == state(house).version)
        registry.delete_head(heads[0])

        for words in (("rollback", "--to", "2"), ("deny", other)):
            refused = command(house, *words)
            assert refused.returncode == 2
            assert f"v0.2.0 would come into force, but head {heads[0][:12]} is not in" in refused.stderr
            assert "Can be had: v0.1.0, v0.0.0." in refused.stderr
            assert "Traceback" not in refused.stderr
        assert house.version() == "v3.3.0"

        # Whoever writes the log without asking is obeyed as far as that can be done.
        say(house, control.Deny, sha256=other, reason="bad")
        wait_for("a release that is not denied answers", lambda: house.version() == "v0.1.0", 20)
        assert is_ready(house)
        answer = house.predict()
        assert answer is not None
        assert answer["version"] == "v0.1.0"
        with house.reading() as log:
            told = [msgspec.json.decode(record.value) for record in log.read(topic(MODEL, "acks"), 0, 0, 100)][-1]
        assert (told["ok"], told["step"], told["wanted"], told["version"]) == (False, "missing", "v0.4.0", "v0.1.0")


def padded(head: bytes, number: int) -> bytes:
    """The same head in other bytes: the header of a safetensors file may end in blanks."""
    length = int.from_bytes(head[:8], "little")
    blanks = b" " * (8 * number)
    return (length + len(blanks)).to_bytes(8, "little") + head[8 : 8 + length] + blanks + head[8 + length :]
