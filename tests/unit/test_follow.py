from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving_parts import CONTROL, Serving, base, head

from stream_ft import control
from stream_ft.errors import StoreFullError
from stream_ft.release import state_file
from stream_ft.serve.slots import NotReadyError
from stream_ft.testing import MemoryLog


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    with Serving(tmp_path) as made:
        yield made


def swaps(serving: Serving, result: str, step: str = "") -> float:
    value = serving.metrics.registry.get_sample_value("stream_ft_swaps_total", {"result": result, "step": step})
    return value or 0.0


def test_genesis_answers_with_no_label(serving: Serving) -> None:
    assert serving.follower.ready() == (False, "No version has been loaded yet.")
    serving.genesis()
    assert serving.version == "v0.0.0"
    assert serving.follower.ready() == (True, "")


def test_a_promotion_is_prepared_and_flipped_to(serving: Serving) -> None:
    serving.genesis()
    sha = serving.promote("better", "yes", "no")
    serving.follower.step()
    assert serving.version == "v1.1.0"
    assert serving.engine.active == sha
    assert serving.metrics.registry.get_sample_value("stream_ft_active_epoch") == 1
    assert swaps(serving, "ok") == 2


def test_a_new_head_on_the_same_base_prepares_nothing(serving: Serving) -> None:
    sha = serving.genesis()
    calls = [call for call in serving.engine.calls if call[0] == "prepare"]
    start = serving.registry.put_head(head("yes", "no"))
    serving.say(control.Promote, base=sha, start_head=start, parent=sha, expected_epoch=0)
    serving.follower.step()
    assert serving.version == "v0.1.0"
    assert serving.slots.current is not None
    assert serving.slots.current.head.labels == ("yes", "no")
    assert [call for call in serving.engine.calls if call[0] == "prepare"] == calls


def test_nothing_happens_while_nothing_is_new(serving: Serving) -> None:
    serving.genesis()
    calls = list(serving.engine.calls)
    for _ in range(5):
        serving.clock.advance(2.0)
        serving.follower.step()
    assert serving.engine.calls == calls


def test_a_rollback_flips_back_without_preparing_again(serving: Serving) -> None:
    first = serving.genesis()
    serving.promote("worse", "yes")
    serving.follower.step()
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    assert serving.version == "v0.2.0"
    assert serving.engine.active == first
    assert [call for call in serving.engine.calls if call == ("prepare", first)] == [("prepare", first)]
    assert serving.follower.ready() == (True, "")


def test_refused_messages_change_nothing(serving: Serving) -> None:
    serving.genesis()
    serving.promote("overtaken", "yes", expected_epoch=7)
    serving.log.append([serving_message(b"not json at all")])
    serving.follower.step()
    assert serving.version == "v0.0.0"
    assert serving.follower.offset == 3


def serving_message(value: bytes):  # type: ignore[no-untyped-def]
    from stream_ft.ports import Outgoing

    return Outgoing(topic=CONTROL, value=value)


# --- what cannot be loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["keys", "shapes", "dtypes", "base", "finite"])
def test_fault_19_a_base_that_the_engine_refuses_leaves_the_old_one_answering(serving: Serving, step: str) -> None:
    serving.genesis("yes")
    sha = serving.promote("broken", "yes")
    serving.engine.refuse[sha] = step
    serving.follower.step()
    assert serving.version == "v0.0.0"
    assert serving.follower.ready() == (True, "")
    assert serving.follower.failure is not None
    assert serving.follower.failure.step == step
    assert swaps(serving, "failed", step) == 1
    assert serving.post("/predict", {"inputs": "hello"}).headers["stream-ft-version"] == "v0.0.0"


def test_fault_19_a_damaged_head_is_refused_by_its_hash(serving: Serving) -> None:
    serving.genesis("yes")
    serving.promote("good", "yes", "no")
    path = serving.registry.head_path(serving.registry.put_head(head("yes", "no")))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    serving.follower.step()
    assert serving.version == "v0.0.0"
    assert swaps(serving, "failed", "hash") == 1


def test_fault_19_a_head_of_another_width_is_refused_at_the_flip(serving: Serving) -> None:
    serving.genesis("yes")
    start = serving.registry.put_head(head("yes", dim=7))
    serving.promote("narrow", "yes", start_head=start)
    serving.follower.step()
    assert serving.version == "v0.0.0"
    assert swaps(serving, "failed", "shapes") == 1


def test_fault_19_a_base_without_a_manifest_is_refused(serving: Serving) -> None:
    serving.genesis("yes")
    sha = serving.registry.put({"tensors.safetensors": b"x"})
    serving.promote("x", "yes", base=sha)
    serving.follower.step()
    assert serving.version == "v0.0.0"
    assert swaps(serving, "failed", "manifest") == 1
    assert ("prepare", sha) not in serving.engine.calls


def test_fault_27_a_replica_that_cannot_load_says_so_on_acks(serving: Serving) -> None:
    serving.genesis("yes")
    sha = serving.promote("broken", "yes")
    serving.engine.refuse[sha] = "keys"
    serving.follower.step()
    good, bad = serving.written("acks")
    assert (good["ok"], good["version"], good["wanted"], good["replica"]) == (True, "v0.0.0", "v0.0.0", "serve@test")
    assert (bad["ok"], bad["version"], bad["wanted"], bad["step"]) == (False, "v0.0.0", "v1.1.0", "keys")


def test_it_is_tried_again_with_growing_pauses_and_then_answers(serving: Serving) -> None:
    serving.genesis("yes")
    sha = serving.promote("late", "yes")
    serving.engine.refuse[sha] = "missing"
    attempts = []
    for second in range(200):
        serving.follower.step()
        if serving.engine.calls.count(("prepare", sha)) > len(attempts):
            attempts.append(second)
        serving.clock.advance(1.0)
    assert attempts == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    serving.engine.refuse.clear()
    serving.clock.advance(60.0)
    serving.follower.step()
    assert serving.version == "v1.1.0"
    assert serving.follower.failure is None


def test_a_newer_wish_does_not_wait_for_the_pause(serving: Serving) -> None:
    serving.genesis("yes")
    serving.engine.refuse[serving.promote("broken", "yes")] = "keys"
    for _ in range(5):
        serving.follower.step()
        serving.clock.advance(10.0)
    serving.promote("good", "yes", "no")
    serving.follower.step()
    assert serving.version == "v2.2.0"


def test_an_engine_that_fails_in_its_own_way_is_a_failed_swap(serving: Serving) -> None:
    serving.genesis("yes")
    prepare = serving.engine.prepare

    def explode(name: str, files: dict[str, bytes]) -> None:
        raise MemoryError("no room for secrets")

    serving.engine.prepare = explode  # type: ignore[method-assign]
    serving.promote("large", "yes")
    serving.follower.step()
    assert serving.follower.failure is not None
    assert "secrets" not in serving.follower.failure.reason
    assert swaps(serving, "failed", "prepare") == 1
    serving.engine.prepare = prepare  # type: ignore[method-assign]
    serving.clock.advance(1.0)
    serving.follower.step()
    assert serving.version == "v1.1.0"


def test_a_withdrawn_version_with_no_other_to_load_is_not_ready(serving: Serving) -> None:
    first = serving.genesis("yes")
    serving.promote("worse", "yes")
    serving.follower.step()
    serving.batcher.between(lambda: serving.engine.drop(first)).result(10)
    serving.follower._loader._prepared.pop(first)
    serving.engine.refuse[first] = "hash"
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    ready, reason = serving.follower.ready()
    assert not ready
    assert "v1.1.0 has been withdrawn" in reason
    assert serving.get("/readyz").status_code == 503


def test_fault_21_a_withdrawn_version_gives_way_to_the_newest_that_can_be_loaded(serving: Serving) -> None:
    serving.genesis("yes")
    serving.promote("good", "yes", "no")
    serving.follower.step()
    gone = serving.promote("gone", "yes", "no", "perhaps")
    serving.follower.step()
    bad = serving.promote("bad", "never")
    serving.follower.step()
    assert serving.version == "v3.3.0"
    serving.registry.delete(gone)
    serving.follower._loader._prepared.pop(gone)
    serving.say(control.Deny, sha256=bad, reason="bad")
    serving.follower.step()
    assert (serving.follower.state.version, serving.version) == ("v2.4.0", "v1.1.0")
    assert serving.follower.ready() == (True, "")
    assert serving.post("/predict", {"inputs": "hello"}).headers["stream-ft-version"] == "v1.1.0"
    assert serving.metrics.registry.get_sample_value("stream_ft_active_epoch") == 1
    assert serving.metrics.registry.get_sample_value("stream_ft_ready") == 1
    assert swaps(serving, "failed", "missing") == 1
    told = serving.written("acks")[-1]
    assert (told["ok"], told["wanted"], told["version"], told["step"]) == (False, "v2.4.0", "v1.1.0", "missing")


def test_fault_21_a_stand_in_that_is_denied_in_its_turn_gives_way_at_once(serving: Serving) -> None:
    serving.genesis("yes")
    stand_in = serving.promote("good", "yes", "no")
    serving.follower.step()
    serving.engine.refuse[serving.promote("broken", "yes")] = "keys"
    serving.follower.step()
    assert serving.version == "v1.1.0"
    serving.say(control.Deny, sha256=stand_in, reason="bad")
    serving.follower._look_at = 0.0
    serving.follower.step()
    assert (serving.follower.state.version, serving.version) == ("v2.2.0", "v0.0.0")
    assert serving.follower.ready() == (True, "")


def test_fault_21_many_heads_that_are_gone_do_not_hide_the_genesis(serving: Serving) -> None:
    first = serving.genesis("yes")
    bad = serving.promote("bad", "yes", "no")
    serving.follower.step()
    for number in range(30):
        start = serving.registry.put_head(head("yes", "n" * (number + 1)))
        state = serving.follower.state
        serving.say(control.Promote, base=first, start_head=start, parent=state.base, expected_epoch=state.epoch)
        serving.follower._look_at = 0.0
        serving.follower.step()
        serving.registry.delete_head(start)
    state = serving.follower.state
    serving.say(
        control.Promote,
        base=bad,
        start_head=serving.registry.put_head(head("yes", "no")),
        parent=first,
        expected_epoch=state.epoch,
    )
    serving.follower.step()
    assert serving.slots.current is not None
    assert serving.slots.current.base == bad
    serving.say(control.Deny, sha256=bad, reason="bad")
    serving.follower.step()
    assert serving.version == "v0.0.0"
    assert serving.follower.ready() == (True, "")


def test_with_nothing_to_stand_in_a_withdrawn_version_is_not_tried_without_pause(serving: Serving) -> None:
    first = serving.genesis("yes")
    bad = serving.promote("bad", "yes")
    serving.follower.step()
    serving.registry.delete(first)
    serving.follower._loader._prepared.pop(first)
    serving.say(control.Deny, sha256=bad, reason="bad")
    for _ in range(10):
        serving.follower.step()
    assert swaps(serving, "failed", "missing") == 1
    assert not serving.follower.ready()[0]


def test_old_bases_leave_memory_the_newest_stay(serving: Serving) -> None:
    first = serving.genesis("yes")
    names = [first]
    for name in "abcd":
        names.append(serving.promote(name, "yes"))
        serving.follower.step()
    serving.batcher.between(lambda: None).result(10)
    assert serving.engine.bases == names[-2:]
    assert serving.post("/predict", {"inputs": "hello"}).status_code == 200


# --- the log is away, or another one ---------------------------------------------------------------------------


def test_fault_23_a_restart_continues_where_it_was_and_denied_stays_denied(serving: Serving, tmp_path: Path) -> None:
    serving.genesis("yes")
    worse = serving.promote("worse", "yes")
    serving.follower.step()
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    with Serving(tmp_path, log=serving.log) as again:
        again.follower.restore()
        assert again.follower.offset == 3
        again.promote("worse", "yes")
        again.follower.step()
        assert again.version == "v0.2.0"
        assert worse in again.follower.state.denied


def test_fault_24_with_the_log_away_the_last_good_version_answers(serving: Serving, tmp_path: Path) -> None:
    serving.genesis("yes")
    serving.promote("better", "yes", "no")
    serving.follower.step()

    class Away(MemoryLog):
        def log_id(self, topic: str) -> str:
            raise StoreFullError("The broker does not answer.")

    with Serving(tmp_path, log=Away()) as again:
        again.follower.restore()
        again.follower.step()
        assert again.version == "v1.1.0"
        assert again.follower.ready() == (True, "")
        assert "does not answer" in again.follower.halted
        assert again.metrics.registry.get_sample_value("stream_ft_control_halted") == 1


@pytest.mark.parametrize("how", ["replaced", "emptied"])
def test_fault_06_a_log_that_was_replaced_or_cut_gives_no_commands(serving: Serving, tmp_path: Path, how: str) -> None:
    serving.genesis("yes")
    serving.promote("better", "yes", "no")
    serving.follower.step()
    other = MemoryLog(log_id="other" if how == "replaced" else "memory")
    with Serving(tmp_path, log=other) as again:
        again.follower.restore()
        sha = again.registry.put(base("intruder"))
        if how == "replaced":
            for _ in range(3):
                again.say(control.Genesis, log_id="x", base=sha, start_head=again.registry.put_head(head("intruder")))
        again.follower.step()
        assert again.follower.halted
        assert again.version == "v1.1.0"
        assert again.post("/predict", {"inputs": "hello"}).status_code == 200


def test_commands_are_taken_again_when_the_log_is_back(serving: Serving) -> None:
    serving.genesis("yes")
    read = serving.log.read

    def away(*args: object) -> list[object]:
        raise StoreFullError("The broker does not answer.")

    serving.promote("better", "yes", "no")
    serving.log.read = away  # type: ignore[assignment, method-assign]
    serving.follower.step()
    assert serving.follower.halted
    serving.log.read = read  # type: ignore[method-assign]
    serving.clock.advance(1.0)
    serving.follower.step()
    assert not serving.follower.halted
    assert serving.version == "v1.1.0"
    assert serving.metrics.registry.get_sample_value("stream_ft_control_halted") == 0


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff\x00", b'{"log":"memory","state":"AAAA"}', b'{"x":' + b"[" * 100_000]
)
def test_a_kept_file_that_is_damaged_is_folded_anew(serving: Serving, tmp_path: Path, content: bytes) -> None:
    serving.genesis("yes")
    state_file.write(tmp_path / "serve.state", content)
    with Serving(tmp_path, log=serving.log) as again:
        again.follower.restore()
        again.follower.step()
        assert again.version == "v0.0.0"
        assert not again.follower.halted


def test_a_disk_that_takes_no_state_does_not_stop_following(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_file, "write", full)
    serving.genesis("yes")
    assert serving.version == "v0.0.0"


def test_after_a_restart_an_older_release_answers_if_the_wanted_one_is_damaged(
    serving: Serving, tmp_path: Path
) -> None:
    serving.genesis("yes")
    broken = serving.promote("better", "yes", "no")
    serving.follower.step()
    with Serving(tmp_path, log=serving.log) as again:
        again.engine.refuse[broken] = "hash"
        again.follower.restore()
        again.follower.step()
        assert again.version == "v0.0.0"
        assert again.follower.ready() == (True, "")
        again.engine.refuse.clear()
        again.clock.advance(1.0)
        again.follower.step()
        assert again.version == "v1.1.0"


def test_a_denied_release_is_no_stand_in(serving: Serving, tmp_path: Path) -> None:
    serving.genesis("yes")
    serving.promote("worse", "yes")
    serving.follower.step()
    serving.say(control.Rollback, to_epoch=0, reason="worse")
    serving.follower.step()
    wanted = serving.follower.state.base
    with Serving(tmp_path, log=serving.log) as again:
        again.engine.refuse[wanted] = "hash"
        again.follower.restore()
        again.follower.step()
        assert again.version == ""
        assert not again.follower.ready()[0]
        assert again.post("/predict", {"inputs": "hello"}).status_code == 503


def test_the_thread_follows_by_itself(serving: Serving) -> None:
    serving.follower.start()
    assert not serving.follower.wait(0)
    sha = serving.registry.put(base("genesis"))
    serving.say(control.Genesis, log_id="log", base=sha, start_head=serving.registry.put_head(head("yes")))
    assert serving.follower.wait(10)
    serving.follower.close()
    assert serving.version == "v0.0.0"


def test_forwards_between_two_versions_are_never_a_mixture(serving: Serving) -> None:
    with pytest.raises(NotReadyError):
        serving.batcher.between(lambda: serving.slots.forward(["x"])).result(10)
    serving.genesis("yes", "no")
    expected = {}
    for name in ("a", "b", "c"):
        serving.promote(name, "yes", "no")
        serving.follower.step()
        answer = serving.batcher.between(lambda: serving.slots.forward(["hello"])).result(10)[0]
        expected[answer.version.name] = answer.embedding
    assert len(set(expected.values())) == 3
    assert list(expected) == ["v1.1.0", "v2.2.0", "v3.3.0"]


def test_a_version_that_is_overtaken_while_it_is_prepared_never_answers(serving: Serving) -> None:
    serving.genesis()
    first = serving.promote("slow", "yes")

    def rolled_back(name: str, files: dict[str, bytes], between: Callable[[], None]) -> None:
        serving.say(control.Rollback, to_epoch=0, reason="it was a mistake")
        between()
        raise AssertionError("the preparation should have ended here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.engine, "prepare", rolled_back)
        serving.follower.step()
    assert serving.version == "v0.0.0"
    assert first not in serving.engine.bases
    serving.follower.step()
    assert serving.version == "v0.2.0"
    assert serving.follower.failure is None
    assert swaps(serving, "failed", "prepare") == 0


def test_messages_that_change_nothing_do_not_interrupt_a_preparation(serving: Serving) -> None:
    serving.genesis()
    serving.promote("better", "yes")
    prepare = serving.engine.prepare

    def paused(name: str, files: dict[str, bytes], between: Callable[[], None]) -> None:
        serving.say(control.Pause)
        between()
        prepare(name, files, between)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.engine, "prepare", paused)
        serving.follower.step()
    assert serving.version == "v1.1.0"
