"""Who is in which set of pods: pods and namespaces by label, and the addresses of each ``PodSet`` that is in use.

In: pods and namespaces as they come, change and go; ``use`` and ``release`` of pod sets. Out: ``Group.parts``, the
addresses of a set, and after ``settle`` the groups whose addresses changed. Pure.

A change costs what it changes, not what there is. Pods of one namespace with equal labels are one *class*; a class
knows the groups that it belongs to, so that most changes evaluate no selector at all. A new class finds its groups, and
a new group its classes, by the labels that the group's selector asks for. Only sets that are in use are kept.

Pods on the host's network and addresses of finished pods are nobody's here (rules.py, clause 8; a finished pod's
address may belong to another pod already).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

from contiv.fastpath import acl
from contiv.model.ip import Address
from contiv.policy.rules import UNNAMED, ContainerPorts, PodSet
from contiv.policy.selectors import SelectorIndex

Label: TypeAlias = tuple[str, str]
ClassKey: TypeAlias = tuple[int, ...]


class PodRecord:
    """One pod: where it stands in the index, its addresses, and its named ports.

    ``told`` are the addresses in its status, ``addresses`` those that rules find it by: none of a finished pod.
    """

    __slots__ = ("addresses", "finished", "label_class", "name", "place", "ports", "told", "uid")

    def __init__(self, name: str, label_class: LabelClass) -> None:
        self.name = name
        self.label_class = label_class
        self.place = 0
        """Where it stands in ``label_class.pods``."""
        self.uid = ""
        self.told: tuple[Address, ...] = ()
        self.addresses: tuple[Address, ...] = ()
        self.finished = False
        self.ports: ContainerPorts = ()

    @property
    def namespace(self) -> str:
        """The namespace's name."""
        return self.label_class.home.name

    @property
    def labels(self) -> Mapping[str, str]:
        """The pod's labels."""
        return self.label_class.labels


class LabelClass:
    """The pods of one namespace that have equal labels, and the groups that they are in."""

    __slots__ = ("groups", "home", "key", "labels", "pods")

    def __init__(self, home: NamespaceRecord, key: ClassKey, labels: Mapping[str, str]) -> None:
        self.home = home
        self.key = key
        self.labels = labels
        self.pods: list[PodRecord] = []
        self.groups: frozenset[Group] = frozenset()

    def join(self, pod: PodRecord) -> None:
        """Take in a pod."""
        pod.label_class = self
        pod.place = len(self.pods)
        self.pods.append(pod)

    def leave(self, pod: PodRecord) -> None:
        """Let go of a pod; the last one takes its place."""
        last = self.pods.pop()
        if last is not pod:
            self.pods[pod.place] = last
            last.place = pod.place


class NamespaceRecord:
    """A namespace with its pods by name. ``labels`` None: its object is not known, no selector matches it."""

    __slots__ = ("classes", "groups", "labels", "name", "pods")

    def __init__(self, name: str) -> None:
        self.name = name
        self.labels: Mapping[str, str] | None = None
        self.pods: dict[str, PodRecord] = {}
        self.classes: dict[ClassKey, LabelClass] = {}
        self.groups: SelectorIndex[Group] = SelectorIndex()
        """The groups that speak of this namespace by name, by their pod selectors."""


class Group:
    """The members of one ``PodSet``. ``parts``: addresses by number of the named port, or under ``UNNAMED``."""

    __slots__ = ("parts", "pod_set", "touched", "uses")

    def __init__(self, pod_set: PodSet) -> None:
        self.pod_set = pod_set
        self.parts: dict[int, acl.Peers] = {}
        self.uses = 0
        self.touched: set[Address] = set()

    def covers(self, home: NamespaceRecord) -> bool:
        """Whether pods of the namespace can be members."""
        wanted = self.pod_set
        if wanted.namespaces is not None:
            return home.labels is not None and wanted.namespaces.matches(home.labels)
        return wanted.namespace is None or wanted.namespace == home.name

    def numbers(self, pod: PodRecord) -> Iterable[int]:
        """The parts that the addresses of a member belong to."""
        if self.pod_set.port is None:
            return (UNNAMED,)
        protocol, name = self.pod_set.port
        return {port for known, number, port in pod.ports if number == protocol and known == name}


class _Pair:
    """A label that some pod has: its number, which never comes back, and the classes with it."""

    __slots__ = ("classes", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.classes: set[LabelClass] = set()


PORT_SETS_KEPT: Final = 65_536
"""Different sets of named ports that are shared between pods; beyond it, sharing starts over."""


class PodIndex:
    """All pods and namespaces of the cluster."""

    def __init__(self) -> None:
        self.namespaces: dict[str, NamespaceRecord] = {}
        self._pairs: dict[Label, _Pair] = {}
        self._numbers = 0
        self._groups: dict[PodSet, Group] = {}
        self._wide: SelectorIndex[Group] = SelectorIndex()
        """Groups over several namespaces, by their pod selectors."""
        self._holders: dict[Address, PodRecord | tuple[PodRecord, ...]] = {}
        self._port_sets: dict[ContainerPorts, ContainerPorts] = {}
        self._stale: set[Group] = set()

    # ---------------------------------------------------------------- pods

    def pod(self, namespace: str, name: str) -> PodRecord | None:
        """The pod, if it is known."""
        home = self.namespaces.get(namespace)
        return None if home is None else home.pods.get(name)

    def holders(self, address: Address) -> tuple[PodRecord, ...]:
        """The pods that have the address: one, save while an old object lags behind."""
        found = self._holders.get(address, ())
        return found if isinstance(found, tuple) else (found,)

    def put_pod(
        self,
        namespace: str,
        name: str,
        *,
        uid: str,
        labels: Mapping[str, str],
        addresses: tuple[Address, ...],
        ports: ContainerPorts,
    ) -> PodRecord:
        """Take a pod in, or what changed of it; the record stays the same one."""
        home = self._home(namespace)
        if len(self._port_sets) >= PORT_SETS_KEPT:
            self._port_sets = {}
        ports = self._port_sets.setdefault(ports, ports)
        target = self._class(home, labels)
        pod = home.pods.get(name)
        if pod is None:
            pod = home.pods[name] = PodRecord(name, target)
            target.join(pod)
            self._touch(target.groups, addresses)
        else:
            if pod.addresses == addresses and pod.ports == ports:
                self._touch(pod.label_class.groups ^ target.groups, addresses)
            else:
                self._touch(pod.label_class.groups | target.groups, (*pod.addresses, *addresses))
            self._move(pod, target)
        pod.uid = uid
        pod.ports = ports
        if pod.addresses != addresses:
            self._hold(pod, addresses)
        return pod

    def set_addresses(self, pod: PodRecord, addresses: tuple[Address, ...]) -> None:
        """Take in that a known pod has other addresses now."""
        if pod.addresses != addresses:
            self._touch(pod.label_class.groups, (*pod.addresses, *addresses))
            self._hold(pod, addresses)

    def remove_pod(self, namespace: str, name: str) -> PodRecord | None:
        """Forget a pod."""
        home = self.namespaces.get(namespace)
        pod = home.pods.pop(name, None) if home is not None else None
        if home is None or pod is None:
            return None
        self._touch(pod.label_class.groups, pod.addresses)
        self._hold(pod, ())
        pod.label_class.leave(pod)
        self._drop_class(pod.label_class)
        self._drop_home(home)
        return pod

    def _move(self, pod: PodRecord, target: LabelClass) -> None:
        left = pod.label_class
        if left is not target:
            left.leave(pod)
            target.join(pod)
            self._drop_class(left)

    def _hold(self, pod: PodRecord, addresses: tuple[Address, ...]) -> None:
        for address in pod.addresses:
            rest = tuple(each for each in self.holders(address) if each is not pod)
            if not rest:
                del self._holders[address]
            else:
                self._holders[address] = rest[0] if len(rest) == 1 else rest
        for address in addresses:
            others = self.holders(address)
            self._holders[address] = (*others, pod) if others else pod
        pod.addresses = addresses

    def clear(self) -> None:
        """Untie the circles between pods and classes, so that the memory is free at once."""
        for home in self.namespaces.values():
            for each in home.classes.values():
                each.pods = []
                each.groups = frozenset()

    # ---------------------------------------------------------------- classes

    def _class(self, home: NamespaceRecord, labels: Mapping[str, str]) -> LabelClass:
        pairs = [self._pair(label) for label in labels.items()]
        key = tuple(sorted(pair.number for pair in pairs))
        found = home.classes.get(key)
        if found is None:
            found = home.classes[key] = LabelClass(home, key, labels)
            found.groups = frozenset(self._groups_of(home, labels))
            for pair in pairs:
                pair.classes.add(found)
        return found

    def _pair(self, label: Label) -> _Pair:
        pair = self._pairs.get(label)
        if pair is None:
            self._numbers += 1
            pair = self._pairs[label] = _Pair(self._numbers)
        return pair

    def _drop_class(self, empty: LabelClass) -> None:
        if empty.pods:
            return
        del empty.home.classes[empty.key]
        for label in empty.labels.items():
            pair = self._pairs[label]
            pair.classes.discard(empty)
            if not pair.classes:
                del self._pairs[label]

    def _groups_of(self, home: NamespaceRecord, labels: Mapping[str, str]) -> Iterator[Group]:
        yield from home.groups.matching(labels)
        for group in self._wide.matching(labels):
            if group.covers(home):
                yield group

    # ---------------------------------------------------------------- namespaces

    def put_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Take in a namespace's labels; None when its object is gone."""
        home = self._home(name)
        before = {group for group in self._groups.values() if group.pod_set.namespaces and group.covers(home)}
        home.labels = labels
        after = {group for group in self._groups.values() if group.pod_set.namespaces and group.covers(home)}
        for group in before ^ after:
            for each in home.classes.values():
                if group.pod_set.pods.matches(each.labels):
                    each.groups ^= {group}
                    for pod in each.pods:
                        self._touch((group,), pod.addresses)
        self._drop_home(home)

    def _home(self, name: str) -> NamespaceRecord:
        found = self.namespaces.get(name)
        if found is None:
            found = self.namespaces[name] = NamespaceRecord(name)
        return found

    def _drop_home(self, home: NamespaceRecord) -> None:
        if home.labels is None and not home.pods and not home.groups:
            self.namespaces.pop(home.name, None)

    # ---------------------------------------------------------------- groups

    def group(self, pod_set: PodSet) -> Group:
        """The group of a set in use."""
        return self._groups[pod_set]

    def use(self, pod_set: PodSet) -> Group:
        """Keep the members of a set from now on; each ``use`` wants a ``release``."""
        group = self._groups.get(pod_set)
        if group is None:
            group = self._groups[pod_set] = Group(pod_set)
            self._shelf(group).add(group, pod_set.pods)
            self._fill(group)
        group.uses += 1
        return group

    def release(self, pod_set: PodSet) -> None:
        """Take back one ``use``; with the last one the group is forgotten."""
        group = self._groups[pod_set]
        group.uses -= 1
        if group.uses:
            return
        del self._groups[pod_set]
        self._stale.discard(group)
        self._shelf(group).discard(group, pod_set.pods)
        for each in self._candidates(group):
            if group in each.groups:
                each.groups -= {group}
        if pod_set.namespace is not None:
            self._drop_home(self._home(pod_set.namespace))

    def _shelf(self, group: Group) -> SelectorIndex[Group]:
        name = group.pod_set.namespace
        return self._wide if name is None else self._home(name).groups

    def _fill(self, group: Group) -> None:
        found: dict[int, list[Address]] = {}
        for each in self._candidates(group):
            if group.covers(each.home) and group.pod_set.pods.matches(each.labels):
                each.groups |= {group}
                for pod in each.pods:
                    for number in group.numbers(pod):
                        found.setdefault(number, []).extend(pod.addresses)
        group.parts = {number: acl.Peers.of(addresses) for number, addresses in found.items() if addresses}

    def _candidates(self, group: Group) -> Iterator[LabelClass]:
        """Classes that can be in the group, from the shortest list at hand."""
        wanted = group.pod_set
        anchors = wanted.pods.anchors
        labelled = [self._pairs[label].classes for label in anchors if label in self._pairs] if anchors else []
        if wanted.namespace is not None:
            home = self.namespaces.get(wanted.namespace)
            if home is None:
                return
            if anchors is None or len(home.classes) <= sum(map(len, labelled)):
                yield from home.classes.values()
                return
        if anchors is not None:
            for classes in labelled:
                yield from classes
            return
        for home in self._homes(group):
            yield from home.classes.values()

    def _homes(self, group: Group) -> Iterable[NamespaceRecord]:
        return [home for home in self.namespaces.values() if group.covers(home)]

    # ---------------------------------------------------------------- changes

    def _touch(self, groups: Iterable[Group], addresses: tuple[Address, ...]) -> None:
        if addresses:
            for group in groups:
                group.touched.update(addresses)
                self._stale.add(group)

    def settle(self) -> set[Group]:
        """Bring the groups up to date; those whose addresses really changed."""
        changed = {group for group in self._stale if self._update(group)}
        self._stale = set()
        return changed

    def _update(self, group: Group) -> bool:
        """Judge each touched address anew by who holds it now: nothing is counted that could be miscounted."""
        into: dict[int, list[Address]] = {}
        for address in group.touched:
            for pod in self.holders(address):
                if group in pod.label_class.groups:
                    for number in group.numbers(pod):
                        into.setdefault(number, []).append(address)
        changed = False
        for number in group.parts.keys() | into.keys():
            before = group.parts.get(number, acl.Peers.NONE)
            wanted = into.get(number, ())
            after = before.without(group.touched.difference(wanted)).with_(wanted)
            changed = changed or after != before
            if after:
                group.parts[number] = after
            else:
                group.parts.pop(number, None)
        group.touched = set()
        return changed
