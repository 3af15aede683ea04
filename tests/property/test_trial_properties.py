"""Which keys a canary is dealt: as many as it was given, always the same, and more of them as it grows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.serve.trial import chosen

KEYS = 10_000
bases = st.text("0123456789abcdef", min_size=64, max_size=64)
shares = st.floats(0, 1)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(bases, st.text(max_size=20))
def test_a_tenth_of_ten_thousand_keys_is_nine_to_eleven_percent(base: str, prefix: str) -> None:
    dealt = sum(chosen(f"{prefix}{number}", base, 0.1) for number in range(KEYS))
    assert 0.09 * KEYS <= dealt <= 0.11 * KEYS


@given(st.text(), bases, shares, shares)
def test_who_is_in_stays_in_as_the_share_grows(key: str, base: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert chosen(key, base, small) <= chosen(key, base, large)
    assert chosen(key, base, small) == chosen(key, base, small)


@given(st.text() | st.just("\ud800"), bases)
def test_nobody_is_in_at_0_and_everybody_at_1(key: str, base: str) -> None:
    assert not chosen(key, base, 0.0)
    assert chosen(key, base, 1.0)


def test_another_challenger_is_tried_on_other_keys() -> None:
    one, other = ({key for key in range(KEYS) if chosen(str(key), base * 64, 0.1)} for base in "ab")
    assert len(one & other) < 0.02 * KEYS
