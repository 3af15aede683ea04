"""Collections that share memory: every view stays what it was, forks included."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_ft.release.grown import Chain, Register

# A step adds to one of the views made so far: `(which view, what)`.
STEPS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=40)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_a_chain_behaves_like_a_tuple_whichever_view_grows(steps: list[tuple[int, int]]) -> None:
    views: list[tuple[Chain[int], tuple[int, ...]]] = [(Chain(), ())]
    for which, item in steps:
        chain, plain = views[which % len(views)]
        views.append((chain.plus(item), (*plain, item)))
    for chain, plain in views:
        assert tuple(chain) == plain
        assert len(chain) == len(plain)
        assert chain[-3:] == plain[-3:]
        assert list(reversed(chain)) == list(reversed(plain))
        assert chain == plain


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_a_register_behaves_like_a_dict_whichever_view_grows(steps: list[tuple[int, int]]) -> None:
    views: list[tuple[Register, dict[str, int]]] = [(Register(), {})]
    for number, (which, item) in enumerate(steps):
        register, plain = views[which % len(views)]
        views.append((register.plus(str(item), number), {str(item): number} | plain))
    for register, plain in views:
        assert dict(register) == plain
        assert len(register) == len(plain)
        assert [str(i) in register for i in range(10)] == [str(i) in plain for i in range(10)]
        assert register == Register(plain)


def test_an_index_beyond_the_view_is_an_error_even_where_the_storage_is_longer() -> None:
    short = Chain([1])
    short.plus(2)
    with pytest.raises(IndexError):
        short[1]


def test_a_name_of_a_longer_view_is_not_in_the_shorter_one() -> None:
    short = Register({"a": 1})
    long = short.plus("b", 2)
    assert long["b"] == 2
    assert "b" not in short
    assert short.get("b") is None
    with pytest.raises(KeyError):
        short["b"]


def test_a_name_keeps_its_first_number() -> None:
    register = Register({"a": 1})
    assert register.plus("a", 2) is register
