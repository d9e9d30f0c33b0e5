"""contiv/vpp/descriptors/nat_mapping.py: the way from one set of backends to another, played on what VPP does."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from contiv.model import vpp as model
from contiv.vpp.descriptors.nat_mapping import EMPTIED, GUARD, Step, gentle_steps, steps

LIMIT = model.NAT_WEIGHT_MAX


def record(number: int, weight: int) -> bytes:
    return bytes((10, 1, 1, number)) + (8080).to_bytes(2, "big") + bytes((weight,)) + bytes(4)


def backends(weights: dict[int, int]) -> bytes:
    return b"".join(sorted(record(number, weight) for number, weight in weights.items()))


@st.composite
def sound(draw: st.DrawFn) -> dict[int, int]:
    """Backends by number with their weights, as a mapping may have them."""
    numbers = draw(st.lists(st.integers(1, 12), min_size=1, unique=True))
    left, weights = LIMIT, {}
    for place, number in enumerate(numbers):
        weights[number] = draw(st.integers(1, min(200, left - (len(numbers) - place - 1))))
        left -= weights[number]
    return weights


@st.composite
def some_idle(draw: st.DrawFn) -> dict[int, int]:
    """Backends some of which drain, with room for the guard."""
    weights = draw(sound().filter(lambda found: sum(found.values()) < LIMIT))
    idle = draw(st.sets(st.sampled_from(sorted(weights)), max_size=len(weights) - 1))
    return {number: 0 if number in idle else weight for number, weight in weights.items()}


class Locals:
    """VPP's list: an anchor, places that are reused last in, first out, and the refusals of nat44_ed.c."""

    def __init__(self, start: dict[int, int]) -> None:
        self.places: dict[int, bytes] = dict(enumerate(map(record, start.keys(), start.values())))
        self.free: list[int] = []
        self.ended: set[bytes] = set()

    def play(self, way: Sequence[Step]) -> None:
        for is_add, changed in way:
            if (is_add, changed) == EMPTIED:
                own = [at for at, held in self.places.items() if held[7:] == bytes(4)]
                assert own, "NO_SUCH_ENTRY"
                for at in own:
                    del self.places[at]
                    self.free.append(at)
                assert GUARD in self.places.values(), "nobody keeps VPP from a division by zero"
                continue
            same = [at for at, held in self.places.items() if held[:6] + held[7:] == changed[:6] + changed[7:]]
            if is_add:
                assert not same, "VALUE_EXIST"
                self.places[self.free.pop() if self.free else len(self.places)] = changed
            else:
                assert same, "NO_SUCH_ENTRY"
                assert len(self.places) + 1 >= 3, "UNSPECIFIED"
                del self.places[same[0]]
                self.free.append(same[0])
                self.ended.add(changed)
            assert 1 <= sum(held[6] for held in self.places.values()) <= LIMIT


@given(sound(), sound(), st.booleans())
def test_every_way_ends_at_the_goal_within_vpps_limits(old: dict[int, int], new: dict[int, int], sticky: bool) -> None:
    way = steps(backends(old), backends(new), sticky=sticky)
    if way is None:
        return
    played = Locals(old)
    before = dict(played.places)
    played.play(way)
    assert set(played.places.values()) == {record(number, weight) for number, weight in new.items()}
    changed = {number for number in old if old[number] != new.get(number)}
    assert played.ended == {record(number, old[number]) for number in changed}
    assert len(way) == len(changed) + len([number for number in new if new[number] != old.get(number)])
    if sticky:
        assert not played.free
        assert all(before[at] == played.places[at] for at in before if before[at] in played.places.values())


@given(sound(), st.integers(20, 29))
def test_one_backend_more_or_less_is_one_step(weights: dict[int, int], number: int) -> None:
    more = {**weights, number: 1}
    if sum(more.values()) <= LIMIT:
        assert steps(backends(weights), backends(more), sticky=False) == [(True, record(number, 1))]
        assert steps(backends(weights), backends(more), sticky=True) == [(True, record(number, 1))]
        assert steps(backends(more), backends(weights), sticky=False) == [(False, record(number, 1))]
        assert steps(backends(more), backends(weights), sticky=True) is None


@given(sound(), sound())
def test_equal_weights_never_take_a_recreate(old: dict[int, int], new: dict[int, int]) -> None:
    assert steps(backends(dict.fromkeys(old, 1)), backends(dict.fromkeys(new, 1)), sticky=False) is not None


def test_a_replaced_backend_leaves_its_place_to_its_successor_under_affinity() -> None:
    old, new = backends({1: 1, 2: 1}), backends({2: 1, 3: 1})
    assert steps(old, new, sticky=True) == [(False, record(1, 1)), (True, record(3, 1))]
    assert steps(old, new, sticky=False) == [(True, record(3, 1)), (False, record(1, 1))]


def test_what_has_no_room_for_both_or_no_second_backend_takes_a_recreate() -> None:
    assert steps(backends({1: 200}), backends({2: 200}), sticky=False) is None
    assert steps(backends({1: 1}), backends({1: 2}), sticky=False) is None
    assert steps(backends({1: 1}), backends({2: 1}), sticky=True) is None


@given(some_idle(), some_idle(), st.sets(st.integers(1, 12)))
def test_connections_end_to_those_alone_that_leave_and_are_not_spared(
    old: dict[int, int], new: dict[int, int], spared: set[int]
) -> None:
    way = gentle_steps(backends(old), backends(new), {record(number, 1)[:6] for number in spared})
    if way is None:  # nobody is there throughout who could serve meanwhile, or there is no room for both
        assert not {number for number in old if old[number] and new.get(number) == old[number]}
        return
    played = Locals(old)
    played.play(way)
    assert set(played.places.values()) == {record(number, weight) for number, weight in new.items()}
    assert {ended[:6] for ended in played.ended - {GUARD}} == {
        record(number, 1)[:6] for number in old.keys() - new.keys() - spared
    }
