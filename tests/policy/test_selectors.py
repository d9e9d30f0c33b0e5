"""Selectors found by label: the same ones that asking each would find."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contiv.model import kube
from contiv.policy import selectors
from contiv.policy.selectors import NOTHING, Selector, SelectorIndex
from tests.policy import oracle
from tests.policy.worlds import LABELS, SELECTOR


def ignore(_: str, __: str) -> None:
    """Faults are the rules' tests' business."""


@given(SELECTOR, LABELS)
def test_a_selector_matches_what_its_requirements_say(wire: kube.LabelSelector, labels: dict[str, str]) -> None:
    assert selectors.read(wire, "", ignore).matches(labels) == oracle.matches(wire, labels)


@given(st.lists(SELECTOR, max_size=12), st.sets(st.integers(0, 11)), LABELS)
def test_an_index_finds_what_matches_each_once_and_forgets_what_left(
    wires: list[kube.LabelSelector], leavers: set[int], labels: dict[str, str]
) -> None:
    index: SelectorIndex[int] = SelectorIndex()
    read = [selectors.read(wire, "", ignore) for wire in wires]
    for number, selector in enumerate(read):
        index.add(number, selector)
    for number in leavers & set(range(len(read))):
        index.discard(number, read[number])
    stays = [number for number in range(len(read)) if number not in leavers]
    assert sorted(index.matching(labels)) == [number for number in stays if read[number].matches(labels)]
    for number in stays:
        index.discard(number, read[number])
    assert not index


def test_selectors_that_mean_the_same_are_equal() -> None:
    labels = kube.LabelSelector(match_labels={"a": "1", "b": "2"})
    expressions = kube.LabelSelector(
        match_expressions=(
            kube.LabelRequirement("b", "In", ("2", "2")),
            kube.LabelRequirement("a", "In", ("1",)),
            kube.LabelRequirement("a", "In", ("1",)),
        )
    )
    assert selectors.read(labels, "", ignore) == selectors.read(expressions, "", ignore)
    assert Selector() != NOTHING
