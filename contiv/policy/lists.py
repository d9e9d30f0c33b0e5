"""From what this node's pods are allowed to the access lists of all interfaces, writing only what changed. Pure.

In: the pods (``Local``) with what they allow, and which of them changed, as destinations (*heard*) or as sources
(*spoke*). Out: ``lists`` by interface and, from ``write``, the interfaces whose lists changed.

Pods of one node judge each other's egress where they are reached (``tables.sources``), so one pod's change can change
the lists of others. What both sides of a pair allow is kept, and compared before anything is written again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from contiv.fastpath import acl
from contiv.model.ip import Address
from contiv.model.service import Frontend, FrontendKey
from contiv.policy import tables
from contiv.policy.frontends import Frontends
from contiv.policy.local import Local
from contiv.policy.tables import ERRORS, OPEN, PASS, REFLECT, Lists, NodeView, Usable

SPARE_TABLES: Final = 64
"""Finished tables that are kept beside those in use."""


class Writer:
    """The lists of one node."""

    def __init__(self, node: NodeView) -> None:
        self.lists: dict[str, Lists] = {}
        self.node = node
        self._frontends = Frontends(node)
        self._guarded: dict[Frontend, acl.Peers] = {}
        self._toward: dict[acl.Allowed, dict[Address, acl.Ports]] = {}
        self._tables: dict[object, acl.Table] = {}
        self._rewrite = True
        """Something changed that every list may depend on."""

    def set_node(self, node: NodeView) -> None:
        """The node is another one."""
        if node != self.node:
            self.node = node
            self._frontends.set_node(node)
            self._tables = {}
            self._rewrite = True

    def set_frontends(self, frontends: Mapping[FrontendKey, Frontend]) -> None:
        """Services have these frontends now."""
        if self._frontends.replace(frontends):
            self._rewrite = True

    def write(self, pods: Collection[Local], *, heard: set[Local], spoke: set[Local]) -> set[str]:
        """Bring the lists up to date; the interfaces whose lists changed, came or went."""
        self._guard(pods)
        dirty = self._pair(set(pods), heard, spoke)
        wanted = {pod.interface: self._pod_lists(pod) for pod in (pods if self._rewrite else dirty)}
        kept = {pod.interface for pod in pods}
        if self._rewrite or spoke:
            node = self._node_lists(pods)
            wanted |= node
            kept |= node.keys()
        else:
            kept |= {*self.node.uplinks, self.node.overlay, self.node.host}
        gone = self.lists.keys() - kept
        changed = gone | {name for name, lists in wanted.items() if self._set(name, lists)}
        for name in gone:
            del self.lists[name]
        self._rewrite = False
        self._tidy(pods)
        return changed

    def _set(self, interface: str, lists: Lists) -> bool:
        """Note an interface's lists; whether they are other ones than before."""
        before = self.lists.get(interface)
        self.lists[interface] = lists
        return before != lists

    # ---------------------------------------------------------------- pairs of pods

    def _pair(self, pods: set[Local], heard: set[Local], spoke: set[Local]) -> set[Local]:
        """Bring the pairs of pods up to date; the pods whose lists may have to change."""
        isolated = [pod for pod in pods if pod.egress is not None and not pod.shut]
        for pod in heard:
            found = ((source, self._pair_of(source, pod)) for source in isolated)
            pod.pairs = {source: pairs for source, pairs in found if pairs}
        dirty = heard | (spoke & pods)
        for source in spoke:
            for pod in pods - heard:
                pairs = self._pair_of(source, pod) if source in pods else ()
                if pod.pairs.get(source, ()) != pairs:
                    dirty.add(pod)
                    if pairs:
                        pod.pairs[source] = pairs
                    else:
                        del pod.pairs[source]
        return dirty

    def _pair_of(self, source: Local, target: Local) -> tuple[tuple[Address, acl.Ports], ...]:
        """The addresses of ``source`` that may not reach everything of ``target``, with what both sides allow.

        A pod is a source for itself too: it never needs the line, but pods of one kind then share a list.
        """
        if source.egress is None or source.shut:
            return ()
        found = []
        for address in source.addresses:
            there = target.address(address.version)
            ports = acl.Ports.ANY if there is None else self._ports(source.egress, there)
            if ports != acl.Ports.ANY:
                if target.ingress is not None:
                    ports = ports.intersection(self._ports(target.ingress, address))
                found.append((address, ports))
        return tuple(found)

    def _ports(self, allowed: acl.Allowed, address: Address) -> acl.Ports:
        known = self._toward.setdefault(allowed, {})
        ports = known.get(address)
        if ports is None:
            ports = known[address] = allowed.toward(address)
        return ports

    # ---------------------------------------------------------------- one interface

    def _pod_lists(self, pod: Local) -> Lists:
        first = self._guard_of(pod)
        if pod.ingress is None and pod.egress is None and not pod.pairs and not first:
            return OPEN
        last = REFLECT if pod.egress is None else self._egress(pod, pod.egress)
        entry = (REFLECT,) if pod.ingress is None else (self._ingress(pod.ingress),)
        errors = () if pod.ingress is None or pod.shut else (ERRORS,)
        return Lists(input=(*first, last), output=(*self._sources(pod), *errors, *entry))

    def _ingress(self, allowed: acl.Allowed) -> acl.Table:
        return self._table(("ingress", allowed), lambda: tables.ingress(allowed, self.node))

    def _egress(self, pod: Local, allowed: acl.Allowed) -> acl.Table:
        if pod.shut:
            return self._table("shut", lambda: acl.Table.build([acl.deny()]))
        usable = self._frontends.usable(allowed, pod.addresses)
        services = () if pod.young else self.node.services
        if pod.young:
            usable = Usable(denied=usable.denied)
        return self._table(("egress", allowed, usable, services), lambda: tables.egress(allowed, usable, services))

    def _sources(self, pod: Local) -> tuple[acl.Table, ...]:
        if not pod.pairs:
            return ()
        peers, allowed = tables.grouped(pair for pairs in pod.pairs.values() for pair in pairs)
        return (self._table(("sources", peers, allowed), lambda: tables.sources(peers, allowed)),)

    def _guard_of(self, pod: Local) -> tuple[acl.Table, ...]:
        denied = [
            frontend
            for frontend, clients in self._guarded.items()
            if any(each.version == frontend.address.version and each not in clients for each in pod.addresses)
        ]
        return (tables.guard(denied),) if denied else ()

    def _table(self, facts: object, build: Callable[[], acl.Table]) -> acl.Table:
        found = self._tables.get(facts)
        if found is None:
            found = self._tables[facts] = build()
        return found

    # ---------------------------------------------------------------- the node's interfaces

    def _guard(self, pods: Iterable[Local]) -> None:
        """Who may use the services that hide their clients from this node's isolated pods."""
        guarded: dict[Frontend, acl.Peers] = {}
        if self._frontends:
            isolated = ((each, pod.ingress) for pod in pods for each in pod.addresses)
            guarded = self._frontends.guarded({each: allowed for each, allowed in isolated if allowed is not None})
        if guarded != self._guarded:
            self._guarded = guarded
            self._rewrite = True

    def _node_lists(self, pods: Iterable[Local]) -> dict[str, Lists]:
        """The lists of the node's own interfaces, which have their places from the start: see ``tables.py``."""
        by_rules: dict[acl.Allowed, list[Address]] = {}
        for pod in pods:
            if pod.egress is not None and not pod.shut:
                by_rules.setdefault(pod.egress, []).extend(pod.addresses)
        guard = (tables.outside_guard(self._guarded),) if self._guarded else ()
        remote = (tables.remote({allowed: acl.Peers.of(own) for allowed, own in by_rules.items()}),) if by_rules else ()
        ranged = self._frontends.ranged()
        host = (tables.outside_guard(ranged),) if ranged else ()
        tail = REFLECT if remote else PASS
        lists = dict.fromkeys((*self.node.uplinks, self.node.host, self.node.overlay), OPEN)
        if guard:
            lists |= dict.fromkeys(self.node.uplinks, Lists(input=(*guard, PASS)))
        if host or remote:
            lists[self.node.host] = Lists(input=(*host, tail), output=remote)
        if guard or remote:
            lists[self.node.overlay] = Lists(input=(*guard, tail), output=remote)
        lists.pop("", None)
        return lists

    def _tidy(self, pods: Iterable[Local]) -> None:
        """Forget what belongs to rules that nobody has any more."""
        used = {allowed for pod in pods for allowed in (pod.ingress, pod.egress) if allowed is not None}
        if len(self._toward) > len(used) + SPARE_TABLES:
            self._toward = {allowed: each for allowed, each in self._toward.items() if allowed in used}
        self._frontends.keep(used)
        in_use = {table for lists in self.lists.values() for table in (*lists.input, *lists.output)}
        if len(self._tables) > len(in_use) + SPARE_TABLES:
            self._tables = {facts: table for facts, table in self._tables.items() if table in in_use}
