"""The decision about another try: pure, so each rule is one call."""

from __future__ import annotations

import pytest

from stream_ft.client import calls
from stream_ft.client.errors import DeadlineError, RefusedError, UnavailableError
from stream_ft.client.results import Accepted, Version
from stream_ft.client.retry import (
    FIRST_WAIT_S,
    LEAST_TRY_S,
    LONGEST_WAIT_S,
    Answered,
    Done,
    Failed,
    Tries,
    Wait,
    retry_after_s,
)

NOW = 1_000.0
BUSY = Answered(status=503, body=b'{"error": "No version is loaded."}')
SLOW = Answered(status=504, body=b'{"error": "The answer took too long."}')
GONE = Failed(detail="Connection refused", unsent=True)


def tries(call=None, *, deadline_s: float = 10.0, draw: float = 0.5) -> Tries:
    return Tries(call or calls.status(), where="http://shop", deadline_s=deadline_s, now=NOW, draw=lambda: draw)


def judge(made: Tries, outcome: Answered | Failed, now: float = NOW):
    return made.judge(outcome, now=now, wall=0.0)


# --- when -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [BUSY, SLOW, Answered(status=429, body=b""), GONE, Failed(detail="reset")])
def test_what_may_pass_is_tried_again(outcome: Answered | Failed) -> None:
    assert isinstance(judge(tries(), outcome), Wait)


@pytest.mark.parametrize("status", [302, 500, 502])
def test_a_server_that_failed_is_not_asked_again(status: int) -> None:
    with pytest.raises(UnavailableError, match=f"http://shop answered {status}") as raised:
        judge(tries(), Answered(status=status, body=b"<html>"))
    assert raised.value.status == status


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_is_refused_is_not_sent_again(status: int) -> None:
    with pytest.raises(RefusedError, match=r"^Input 0 is empty\.$") as raised:
        judge(tries(), Answered(status=status, body=b'{"error": "Input 0 is empty."}'))
    assert raised.value.status == status


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"error": 1}', b'{"error": ""}', b"[" * 100_000])
def test_a_refusal_without_a_sentence_gets_one(body: bytes) -> None:
    with pytest.raises(RefusedError, match=r"^The server answered 418\.$"):
        judge(tries(), Answered(status=418, body=body))


def test_what_cannot_help_is_not_repeated() -> None:
    with pytest.raises(UnavailableError):
        judge(tries(), Failed(detail="bad gzip", hopeless=True))


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"{}", b'{"model": 1}', b"[" * 100_000])
def test_an_answer_of_something_else_is_an_error_that_asks_who_listens(body: bytes) -> None:
    with pytest.raises(UnavailableError, match=r"cannot be read.*Does a stream_ft server"):
        judge(tries(), Answered(status=200, body=body))


# --- how long ---------------------------------------------------------------------------------------------------


def test_waits_double_up_to_the_longest_and_jitter_is_full() -> None:
    made = tries(deadline_s=1_000.0)
    waits = [judge(made, GONE).seconds for _ in range(9)]
    wanted = [min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**number) / 2 for number in range(9)]
    assert waits == pytest.approx(wanted)
    assert judge(tries(draw=0.0), GONE) == Wait(seconds=0.0)


def test_many_tries_do_not_overflow() -> None:
    made = tries(deadline_s=1e6)
    for _ in range(3_000):
        assert judge(made, GONE).seconds <= LONGEST_WAIT_S


def test_retry_after_is_waited_out_and_jitter_comes_on_top() -> None:
    busy = Answered(status=429, body=b"", retry_after="3")
    assert judge(tries(), busy).seconds == pytest.approx(3 + FIRST_WAIT_S / 2)


def test_a_retry_after_beyond_the_deadline_is_not_waited_for() -> None:
    with pytest.raises(UnavailableError, match=r"Try again in 60 s") as raised:
        judge(tries(), Answered(status=503, body=BUSY.body, retry_after="60"))
    assert (raised.value.status, raised.value.retry_after_s) == (503, 60.0)
    assert "No version is loaded." in raised.value.message


def test_a_wait_leaves_time_for_a_last_try_and_then_it_is_over() -> None:
    made = tries(draw=0.99)
    for number in range(9):
        judge(made, GONE, NOW + number)
    last = judge(made, GONE, NOW + 9.5)
    assert last.seconds == pytest.approx(0.5 - LEAST_TRY_S)
    with pytest.raises(UnavailableError, match="cannot be reached: Connection refused"):
        judge(made, GONE, NOW + 9.5 + last.seconds + 0.001)


def test_time_that_ran_out_while_an_answer_was_awaited() -> None:
    with pytest.raises(DeadlineError, match=r"http://shop did not answer /status within 10 s\."):
        judge(tries(), Failed(detail="", timed_out=True), NOW + 10)
    made = tries()
    judge(made, GONE)
    with pytest.raises(DeadlineError, match=r"within 10 s, in 2 tries"):
        judge(made, Failed(detail="", timed_out=True), NOW + 10)


def test_a_sleep_that_was_too_long_ends_the_call_with_what_the_last_try_met() -> None:
    made = tries()
    assert made.left(NOW + 4) == 6.0
    judge(made, BUSY, NOW + 4)
    with pytest.raises(UnavailableError, match="No version is loaded"):
        made.left(NOW + 11)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, 0.0),
        ("", 0.0),
        ("soon", 0.0),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("9" * 400, 999_999_999.0),
        ("Thu, 01 Jan 1970 00:01:10 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:01:10 -0000", 10.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, wanted: float) -> None:
    assert retry_after_s(header, 60.0) == wanted


# --- what the caller learns about events ------------------------------------------------------------------------


def feedback(id: str | None = "e-1") -> calls.Call[Accepted]:
    return calls.feedback(
        "p-1", label="x", kind=None, correction=None, rating=None, source=None, origin=None, time=None, id=id
    )


def test_a_server_that_gave_up_waiting_may_have_taken_it() -> None:
    made = tries(feedback())
    judge(made, SLOW)
    with pytest.raises(UnavailableError, match=r"took too long\..*may have been taken") as raised:
        judge(made, SLOW, NOW + 10)
    assert (raised.value.status, raised.value.ids) == (504, ("e-1",))
    made = tries(feedback())
    judge(made, SLOW)
    with pytest.raises(UnavailableError, match="may have been taken"):
        judge(made, BUSY, NOW + 10)


def test_an_error_has_the_ids_that_make_a_repetition_safe() -> None:
    with pytest.raises(DeadlineError, match="may have been taken") as raised:
        judge(tries(feedback()), Failed(detail="", timed_out=True), NOW + 10)
    assert raised.value.ids == ("e-1",)


def test_what_was_never_sent_was_not_taken() -> None:
    for outcome in (GONE, BUSY):
        with pytest.raises(UnavailableError) as raised:
            judge(tries(feedback()), outcome, NOW + 10)
        assert "may have been taken" not in str(raised.value)
    made = tries(feedback())
    judge(made, Failed(detail="reset"))
    with pytest.raises(UnavailableError, match=r"broke|reached.*may have been taken"):
        judge(made, GONE, NOW + 10)


def test_a_refusal_after_a_lost_try_says_that_the_lost_one_may_have_been_taken() -> None:
    made = tries(feedback())
    judge(made, Failed(detail="reset"))
    with pytest.raises(RefusedError, match=r"This server needs a token.*may have been taken"):
        judge(made, Answered(status=401, body=b'{"error": "This server needs a token."}'))


def test_an_event_without_an_id_gets_a_fresh_one() -> None:
    first, second = feedback(None), feedback(None)
    assert first.ids != second.ids
    assert first.ids[0].encode() in (first.body or b"")
    assert len(set(calls.labels([("a text", "a label"), ("more", "b")], source=None).ids)) == 2


def test_offsets_that_do_not_fit_the_events_are_no_answer() -> None:
    assert judge(tries(feedback()), Answered(status=202, body=b'{"accepted": 1, "offsets": [4]}')) == Done(
        value=Accepted(topic="feedback", ids=("e-1",), offsets=(4,))
    )
    with pytest.raises(UnavailableError, match="2 offsets of 1 events"):
        judge(tries(feedback()), Answered(status=202, body=b'{"accepted": 2, "offsets": [4, 5]}'))


def test_half_a_character_is_refused_before_it_is_sent() -> None:
    with pytest.raises(RefusedError, match="half of a surrogate pair") as raised:
        calls.predict("a\ud800")
    assert raised.value.status is None


def test_a_version_covers_what_lies_before_its_offsets() -> None:
    version = Version(
        version="v1.1.0", epoch=1, base="", start_head="", active=True, denied=False, kept=True,
        offsets={"stream_ft.default.feedback": 5},
    )  # fmt: skip
    assert version.covers(Accepted(topic="feedback", ids=("a", "b"), offsets=(3, 4)))
    assert not version.covers(Accepted(topic="feedback", ids=("a", "b"), offsets=(4, 5)))
    assert not version.covers(Accepted(topic="labels", ids=("a",), offsets=(0,)))
