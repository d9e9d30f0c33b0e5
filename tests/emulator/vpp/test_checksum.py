"""The Internet checksum against a loop over words, and its incremental update against a new sum."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contiv.emulator.vpp.checksum import checksum, is_valid, ones_sum, update, update32


def slow_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    padded = data + b"\0" * (len(data) & 1)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=200))
def test_sum_equals_the_sum_of_words(data: bytes) -> None:
    assert ones_sum(data) == slow_sum(data)
    assert checksum(data) == ~slow_sum(data) & 0xFFFF


@given(st.binary(min_size=2, max_size=64).filter(lambda data: len(data) % 2 == 0 and any(data)))
def test_data_with_its_checksum_is_valid(data: bytes) -> None:
    assert is_valid(data + checksum(data).to_bytes(2, "big"))


@given(st.lists(st.integers(0, 0xFFFF), min_size=3, max_size=20), st.data())
def test_update_equals_a_new_sum(words: list[int], data: st.DataObject) -> None:
    words[0] = words[0] or 1
    at = data.draw(st.integers(1, len(words) - 1))
    new = data.draw(st.integers(0, 0xFFFF))
    before = checksum(b"".join(word.to_bytes(2, "big") for word in words))
    changed = [*words[:at], new, *words[at + 1 :]]
    after = checksum(b"".join(word.to_bytes(2, "big") for word in changed))
    assert update(before, words[at], new) == after


@given(st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_update_of_an_address(old: int, new: int) -> None:
    rest = b"\x45\x00\x00\x54\x11\x01"
    before = checksum(rest + old.to_bytes(4, "big"))
    assert update32(before, old, new) == checksum(rest + new.to_bytes(4, "big"))
