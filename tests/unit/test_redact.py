"""Personal data that is found, and what is not mistaken for it."""

from __future__ import annotations

import msgspec
import pytest

from stream_ft.events import Feedback, LabelCorrection, LabelledEvent, Prediction, SpanCorrection, TextCorrection
from stream_ft.ingest.redact import KINDS, Redactor, mask

EVERYTHING = Redactor(region="US")
PREDICTION = Prediction(
    id="p", time=1.0, model="m", version="v", base="b", input="I am jane@example.org", output="x", embedding=b"\0\0"
)


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ("jane@example.org", "EMAIL"),
        ("Jane.Doe+shop@mail.example.co.uk", "EMAIL"),
        ("jürgen@müller.de", "EMAIL"),
        ("DE89 3704 0044 0532 0130 00", "IBAN"),
        ("GB82WEST12345698765432", "IBAN"),
        ("4111 1111 1111 1111", "CARD"),
        ("5500-0000-0000-0004", "CARD"),
        ("378282246310005", "CARD"),
        ("536-90-4399", "US_SSN"),
        ("+44 20 7946 0958", "PHONE"),
        ("(415) 555-2671", "PHONE"),
        ("192.168.100.200", "IP"),
        ("2001:db8::8a2e:370:7334", "IP"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "mine is {}, call me", "Ref AB12 {}.", "\n{}\n"])
def test_what_is_found(found: str, kind: str, around: str) -> None:
    text = around.format(found)
    redacted = EVERYTHING.text(text)
    begin = text.index(found)
    assert redacted[:begin] == text[:begin]
    assert redacted[begin:].startswith(f"[{kind}"[: len(found) - 1])
    assert redacted[begin + len(found) :] == text[begin + len(found) :]
    assert len(redacted) == len(text)


@pytest.mark.parametrize(
    "text",
    [
        "my order 4711123 is late",
        "room 1234567890123456",  # no card: the check digit is wrong
        "GB82WEST12345698765431",  # no IBAN, for the same reason
        "at 12:30:45 on 2024-05-17",
        "version 1.2.3.4.5 of std::vector",
        "300.1.2.3",
        "000-12-3456",  # never given out
        "@everyone look",
        "a + b = c, 100 % of 7,654,321",
        "",
    ],
)
def test_what_is_left_alone(text: str) -> None:
    assert Redactor().text(text) == text


def test_numbers_of_one_country_need_its_name() -> None:
    assert Redactor().text("ring 415-555-2671") == "ring 415-555-2671"
    assert Redactor(region="US").text("ring 415-555-2671") == "ring [PHONE*****]"


def test_one_number_after_another_is_not_lost() -> None:
    text = Redactor().text("order 12345 4111 1111 1111 1111, AB12 DE89 3704 0044 0532 0130 00 a@b.co, c@d.org")
    assert text == "order 12345 [CARD*************], AB12 [IBAN*********************] [EMAI], [EMAIL]"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_kinds_that_are_wanted(kind: str) -> None:
    text = "j@example.org 4111111111111111 GB82WEST12345698765432 536-90-4399 10.0.0.1 +442079460958"
    redacted = Redactor([kind]).text(text)
    assert redacted.count("[") == 1
    assert f"[{kind.upper()}" in redacted


@pytest.mark.parametrize(("kinds", "region"), [(["emial"], ""), (KINDS, "XX"), (KINDS, "us")])
def test_what_cannot_be_asked_for(kinds: list[str], region: str) -> None:
    with pytest.raises(ValueError, match="no "):
        Redactor(kinds, region=region)


def test_masks_have_the_length_of_what_was_there() -> None:
    assert [mask("email", n) for n in (2, 4, 7, 9)] == ["[]", "[EM]", "[EMAIL]", "[EMAIL**]"]


def test_an_embedding_of_what_was_replaced_is_dropped() -> None:
    event = EVERYTHING.event(PREDICTION)
    assert isinstance(event, Prediction)
    assert (event.input, event.embedding, event.output) == ("I am [EMAIL*********]", None, "x")


def test_an_event_without_personal_data_is_the_same() -> None:
    event = msgspec.structs.replace(PREDICTION, input="where is my parcel")
    assert EVERYTHING.event(event) is event


def test_texts_of_corrections_but_not_labels() -> None:
    said = Feedback(prediction_id="p", kind="correct", correction=TextCorrection(text="write to a@b.org"))
    named = Feedback(prediction_id="p", kind="correct", correction=LabelCorrection(label="billing@shop.example"))
    event = EVERYTHING.event(said)
    assert isinstance(event, Feedback)
    assert event.correction == TextCorrection(text="write to [EMAIL]")
    assert EVERYTHING.event(named) is named


def test_spans_keep_their_place() -> None:
    text = "jane@example.org wants a refund"
    event = LabelledEvent(input=text, correction=SpanCorrection(start=text.index("refund"), end=len(text)))
    redacted = EVERYTHING.event(event)
    assert isinstance(redacted, LabelledEvent)
    assert isinstance(redacted.correction, SpanCorrection)
    assert redacted.input[redacted.correction.start : redacted.correction.end] == "refund"
