"""Service addresses that policies must judge before translation, since nothing could afterwards. Pure.

In: the frontends of ``contiv.service``, what pods are allowed. Out: for a pod's own list, which frontends it may use;
for the guards, which clients a frontend may serve.

A frontend is *unjudged* when the pod behind a connection cannot be told where it ends: the client is hidden
(twice-NAT), or a backend is reached by the uplink. A pod may use such a one only where its egress rules allow every
backend, after translation; itself it may always reach. A frontend that is judged later but lies outside of the service
networks is let through by name. And a service may name the clients it is for (``source_ranges``): translation cannot
tell them apart, so the guards do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from contiv.fastpath import acl
from contiv.model.ip import Address
from contiv.model.service import Frontend, FrontendKey
from contiv.policy.tables import NodeView, Usable, service_ports


class Frontends:
    """The frontends as they are, with what was found out about them."""

    def __init__(self, node: NodeView) -> None:
        self._node = node
        self._all: dict[FrontendKey, Frontend] = {}
        self._unjudged: dict[FrontendKey, Frontend] = {}
        self._outside: dict[FrontendKey, Frontend] = {}
        """Judged later, outside of the service networks."""
        self._backed_by: dict[Address, set[FrontendKey]] = {}
        """Unjudged ones by the addresses of their backends."""
        self._ranged: dict[FrontendKey, Frontend] = {}
        """Those that let in only some clients."""
        self._verdicts: dict[acl.Allowed, dict[FrontendKey, bool]] = {}
        self._usable: dict[acl.Allowed, Usable] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def set_node(self, node: NodeView) -> None:
        """The node is another one: what is judged where may have changed."""
        known, self._all, self._outside, self._unjudged, self._ranged = self._all, {}, {}, {}, {}
        self._backed_by, self._verdicts, self._usable = {}, {}, {}
        self._node = node
        self.replace(known)

    def replace(self, frontends: Mapping[FrontendKey, Frontend]) -> bool:
        """Take the frontends as they are now; whether anything changed."""
        gone = [key for key in self._all if key not in frontends]
        fresh = [each for key, each in frontends.items() if self._all.get(key) != each]
        for key in gone:
            self._forget(key)
        for each in fresh:
            self._forget(each.key)
            self._take(each)
        if gone or fresh:
            self._usable.clear()
        return bool(gone or fresh)

    def _take(self, frontend: Frontend) -> None:
        key = frontend.key
        self._all[key] = frontend
        if not frontend.backends:
            return  # nothing is translated
        if frontend.source_ranges:
            self._ranged[key] = frontend
        if frontend.client_hidden or not all(self._judged(backend.address) for backend in frontend.backends):
            self._unjudged[key] = frontend
            for backend in frontend.backends:
                self._backed_by.setdefault(backend.address, set()).add(key)
        elif not any(frontend.address in network for network in self._node.services):
            self._outside[key] = frontend

    def _forget(self, key: FrontendKey) -> None:
        known = self._all.pop(key, None)
        self._outside.pop(key, None)
        self._ranged.pop(key, None)
        if known is None or self._unjudged.pop(key, None) is None:
            return
        for verdicts in self._verdicts.values():
            verdicts.pop(key, None)
        for backend in known.backends:
            keys = self._backed_by.get(backend.address)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._backed_by[backend.address]

    def _judged(self, address: Address) -> bool:
        return any(address in network for network in self._node.judged)

    # ---------------------------------------------------------------- a pod's own list

    def usable(self, allowed: acl.Allowed, own: Iterable[Address]) -> Usable:
        """What a pod with these egress rules and addresses may use."""
        common = self._usable.get(allowed)
        if common is None:
            common = self._usable[allowed] = self._sorted(self._judge(allowed))
        own = frozenset(own)
        mine = {key for address in own for key in self._backed_by.get(address, ())}
        verdicts = self._judge(allowed) if mine else {}
        turned = {key for key in mine if not verdicts[key] and _allows_all(self._unjudged[key], allowed, own)}
        return self._sorted(verdicts | dict.fromkeys(turned, True)) if turned else common

    def keep(self, those: Iterable[acl.Allowed]) -> None:
        """Forget what was found out for other egress rules than these."""
        kept = set(those)
        self._verdicts = {allowed: each for allowed, each in self._verdicts.items() if allowed in kept}
        self._usable = {allowed: each for allowed, each in self._usable.items() if allowed in kept}

    def _judge(self, allowed: acl.Allowed) -> dict[FrontendKey, bool]:
        verdicts = self._verdicts.setdefault(allowed, {})
        if len(verdicts) != len(self._unjudged):
            for key, frontend in self._unjudged.items():
                if key not in verdicts:
                    verdicts[key] = _allows_all(frontend, allowed, frozenset())
        return verdicts

    def _sorted(self, verdicts: Mapping[FrontendKey, bool]) -> Usable:
        allowed = [self._unjudged[key] for key, verdict in verdicts.items() if verdict]
        denied = [self._unjudged[key] for key, verdict in verdicts.items() if not verdict]
        return Usable(service_ports(denied), service_ports([*allowed, *self._outside.values()]))

    # ---------------------------------------------------------------- guards

    def guarded(self, isolated: Mapping[Address, acl.Allowed]) -> dict[Frontend, acl.Peers]:
        """Frontends that not everybody may use, with the clients that they may serve.

        ``isolated`` are the addresses of this node's pods that are isolated for ingress, with what these allow. A
        frontend that hides its clients and could end at one of them serves whom all of them allow, whichever the
        backend would be, and the pod itself where it is the only backend. Where a service names source ranges, its
        clients must be in them besides.
        """
        found: dict[Frontend, acl.Peers] = {}
        for address, allowed in isolated.items():
            for key in self._backed_by.get(address, ()):
                frontend = self._unjudged[key]
                if frontend.client_hidden:
                    for backend in frontend.backends:
                        if backend.address == address:
                            clients = allowed.sources_of(frontend.protocol, backend.port)
                            found[frontend] = found.get(frontend, acl.Peers.ANY).intersection(clients)
        found = {frontend: _with_itself(frontend, clients) for frontend, clients in found.items()}
        for frontend, clients in self.ranged().items():
            found[frontend] = found.get(frontend, acl.Peers.ANY).intersection(clients)
        return {frontend: clients for frontend, clients in found.items() if not clients.allows_everything}

    def ranged(self) -> dict[Frontend, acl.Peers]:
        """The frontends of services that name source ranges, with these: they hold for the node's own host too."""
        return {frontend: acl.Peers.of(frontend.source_ranges) for frontend in self._ranged.values()}


def _with_itself(frontend: Frontend, clients: acl.Peers) -> acl.Peers:
    alone = {backend.address for backend in frontend.backends}
    return clients.with_(alone) if len(alone) == 1 else clients


def _allows_all(frontend: Frontend, allowed: acl.Allowed, own: frozenset[Address]) -> bool:
    return all(
        backend.address in own or allowed.contains(backend.address, frontend.protocol, backend.port)
        for backend in frontend.backends
    )
