"""Label selectors, read once and indexed by the labels they ask for.

In: ``kube.LabelSelector``. Out: ``Selector``, canonical, so that equal ones are equal values and share what is
computed for them, and ``SelectorIndex``, which finds the selectors that can match an object from its labels without
asking all of them. What cannot be read is met by nobody and told to ``report``. Pure. Next: ``rules.py``, ``index.py``.
Meaning: Kubernetes API reference, meta/v1 LabelSelector and LabelSelectorRequirement.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from contiv.model import kube

ItemT = TypeVar("ItemT", bound=Hashable)

Labels = Mapping[str, str]
Report = Callable[[str, str], None]
"""Takes a fault: the field's path and what is wrong with it."""

IN: Final = "In"
NOT_IN: Final = "NotIn"
EXISTS: Final = "Exists"
DOES_NOT_EXIST: Final = "DoesNotExist"


class Requirement(msgspec.Struct, frozen=True, order=True, gc=False):
    """One condition on one label. ``values`` sorted, without repetitions, empty for Exists and DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """Whether the labels meet it; NotIn is also met by what lacks the key."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case _:
                return value is None


class Selector(msgspec.Struct, frozen=True, gc=False):
    """Requirements that are all to be met; without any, everything matches. ``satisfiable`` False: nothing does."""

    requirements: tuple[Requirement, ...] = ()
    satisfiable: bool = True

    def matches(self, labels: Labels) -> bool:
        """Whether an object with these labels is selected."""
        return self.satisfiable and all(each.matches(labels) for each in self.requirements)

    @property
    def anchors(self) -> tuple[tuple[str, str], ...] | None:
        """Labels of which every selected object has exactly one; None when no requirement names any such.

        The fewest are taken: they are where the selector is found in an index.
        """
        choices = [each for each in self.requirements if each.operator == IN]
        if not choices:
            return None
        best = min(choices, key=lambda each: (len(each.values), each))
        return tuple((best.key, value) for value in best.values)


EVERYTHING: Final = Selector()
NOTHING: Final = Selector(satisfiable=False)


def read(selector: kube.LabelSelector, path: str, report: Report) -> Selector:
    """The selector in canonical form; one with a requirement that cannot be read selects nothing.

    ``path`` is the selector's field, as ``spec.podSelector``; faults name the requirement below it.
    """
    requirements = {Requirement(key, IN, (value,)) for key, value in selector.match_labels.items()}
    readable = True
    for number, each in enumerate(selector.match_expressions):
        problem = _problem(each)
        if problem:
            report(f"{path}.matchExpressions[{number}].{problem[0]}", problem[1])
            readable = False
        else:
            requirements.add(Requirement(each.key, each.operator, tuple(sorted(set(each.values)))))
    return Selector(tuple(sorted(requirements))) if readable else NOTHING


def _problem(requirement: kube.LabelRequirement) -> tuple[str, str] | None:
    """(field, what is wrong) as the API server would refuse it (apimachinery, ValidateLabelSelectorRequirement)."""
    match requirement.operator:
        case "In" | "NotIn":
            return None if requirement.values else ("values", f"{requirement.operator} needs at least one value")
        case "Exists" | "DoesNotExist":
            return ("values", f"{requirement.operator} takes no values") if requirement.values else None
        case operator:
            return "operator", f"{operator!r} is none of In, NotIn, Exists, DoesNotExist"


class SelectorIndex(Generic[ItemT]):
    """Items found by the labels that their selectors ask for.

    A selector stands under its anchors, or, when it has none, in a list of its own that every look-up reads. So a
    look-up costs what can match, not what there is.
    """

    __slots__ = ("_by_label", "_unanchored")

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str], dict[ItemT, Selector]] = {}
        self._unanchored: dict[ItemT, Selector] = {}

    def __bool__(self) -> bool:
        return bool(self._by_label or self._unanchored)

    def add(self, item: ItemT, selector: Selector) -> None:
        """Find ``item`` by ``selector`` from now on; an item is in the index once."""
        if not selector.satisfiable:
            return
        anchors = selector.anchors
        if anchors is None:
            self._unanchored[item] = selector
            return
        for label in anchors:
            self._by_label.setdefault(label, {})[item] = selector

    def discard(self, item: ItemT, selector: Selector) -> None:
        """Forget ``item``, which was added with ``selector``, if it is here."""
        for label in selector.anchors or ():
            items = self._by_label.get(label)
            if items is not None:
                items.pop(item, None)
                if not items:
                    del self._by_label[label]
        self._unanchored.pop(item, None)

    def matching(self, labels: Labels) -> Iterator[ItemT]:
        """The items whose selectors match, each once."""
        for item, selector in self._unanchored.items():
            if selector.matches(labels):
                yield item
        for label in labels.items():
            for item, selector in self._by_label.get(label, {}).items():
                if selector.matches(labels):
                    yield item
