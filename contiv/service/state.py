"""All services as one node sees them, and what each change of them means for VPP. No I/O.

Holds services (host ports of a pod are one) with their claims, slices by service, who claims which address and port,
and what was rendered. Every method that changes something returns the desired keys that change with it (None removes a
key), and works on the services concerned alone: a slice's own, a service and those that it takes a claim from or
leaves one to, and on a change of the node those that depend on what changed. ``handler.py`` feeds it events.

Objects that are wrong are reported as faults; whatever of them is right is served.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from contiv.model import cnat, kube, vpp
from contiv.model.ip import Address
from contiv.model.service import Frontend, FrontendKey
from contiv.service.endpoints import Fault, Place, Slice, parse, ready_here
from contiv.service.frontends import (
    CLUSTER_IP,
    HEALTH_CHECK,
    POD,
    PROTOCOL_NAMES,
    Claim,
    Kind,
    NodeView,
    claims_of,
    field_of,
    name_of,
    object_of,
    source_ranges,
)
from contiv.service.hostports import pod_ports
from contiv.service.renderer import SERVE, Answer, Renderer, Value, serving

Changes = dict[str, msgspec.Struct | None]

SHARED: Final = (vpp.ROUTE, cnat.HAIRPIN, vpp.NAT_IDENTITY)
"""The keys that two services may share: the route to an external IP of both or its exemption from NAT, the hairpin of
a pod that serves both."""


class HealthCheck(msgspec.Struct, frozen=True):
    """What a load balancer learns of ``service`` (``namespace/name``): its ready endpoints on this node."""

    service: str
    endpoints: int


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """A service with what follows from it and the node alone."""

    service: kube.Service
    claims: tuple[Claim, ...]
    faults: tuple[Fault, ...]


class ServiceState:
    """One node's view of all services. ``replace`` comes first."""

    def __init__(self, node: NodeView, renderer: Renderer) -> None:
        self.node = node
        self.renderer = renderer
        self.health: dict[int, HealthCheck] = {}
        self.touched: set[str] = set()
        """Services that changed since somebody last looked at their faults."""
        self._health_ports: dict[str, int] = {}
        self._version = 0
        self._place: Place = node.place
        self._entries: dict[str, _Entry] = {}
        self._objects: dict[str, kube.EndpointSlice] = {}
        self._slices: dict[str, dict[str, Slice]] = {}
        self._claimants: dict[FrontendKey, tuple[tuple[int, str], ...]] = {}
        self._rendered: dict[str, Mapping[str, Value]] = {}
        self._routes: dict[str, set[str]] = {}
        self.interfaces: frozenset[str] = frozenset()
        self._frontends: dict[FrontendKey, Frontend] = {}
        self._shown: dict[str, tuple[FrontendKey, ...]] = {}
        self._unshown: set[str] = set()

    # ------------------------------------------------------------------ changes

    def replace(
        self,
        services: Iterable[kube.Service],
        slices: Mapping[str, kube.EndpointSlice],
        node: NodeView,
        *,
        node_object: kube.Node | None,
        interfaces: Collection[str],
        pods: Iterable[kube.Pod] = (),
    ) -> dict[str, msgspec.Struct]:
        """Take the cluster as it is instead of what was known; returns everything desired."""
        gone = set(self._entries)
        self.node = node.seen_as(node_object)
        self._place = self.node.place
        self.interfaces = frozenset(interfaces)
        self._objects = {key: each for key, each in slices.items() if each.service_name}
        self._slices = {}
        for key, each in self._objects.items():
            self._put_slice(key, each)
        self._entries = {}
        self._claimants, self._rendered, self._routes = {}, {}, {}
        self.health, self._health_ports = {}, {}
        sources = {name_of(service): service for service in services}
        for name, service in (sources | self._put_pods(pods)).items():
            self._entries[name] = self._enter(name, service)
            self._claim(name, self._entries[name].claims)
        desired: dict[str, msgspec.Struct] = dict(self.renderer.node(self.node))
        desired |= dict(map(self.renderer.interface, self.interfaces))
        for name in self._entries:
            desired |= self._draw(name)
        self._unshown |= gone | self._entries.keys()
        self.touched |= gone | self._entries.keys()
        return desired

    def service_changed(self, name: str, service: kube.Service | None) -> Changes:
        """A service (``namespace/name``) came, changed, or left (None)."""
        before = self._entries.pop(name, None)
        claims: tuple[Claim, ...] = ()
        if service is not None:
            self._entries[name] = self._enter(name, service)
            claims = self._entries[name].claims
        return self._redraw(sorted(self._reclaim(name, before.claims if before else (), claims)))

    def pod_changed(self, pod: kube.Pod, *, gone: bool = False) -> Changes:
        """A pod came, changed or left; what counts are host ports of those on this node."""
        name = f"{POD}{pod.namespace}/{pod.name}"
        self._slices.pop(name, None)
        found = {} if gone else self._put_pods((pod,))
        if not found and name not in self._entries:
            return {}
        return self.service_changed(name, found.get(name))

    def slice_changed(self, key: str, slice_: kube.EndpointSlice | None) -> Changes:
        """A slice came, changed (its service perhaps), or left (None)."""
        concerned = []
        before = self._objects.pop(key, None)
        if before is not None:
            concerned.append(_owner(before))
            self._drop_slice(key, concerned[0])
        if slice_ is not None and slice_.service_name:
            self._objects[key] = slice_
            self._put_slice(key, slice_)
            if _owner(slice_) not in concerned:
                concerned.append(_owner(slice_))
        return self._redraw(name for name in concerned if name in self._entries)

    def node_changed(self, node: NodeView, node_object: kube.Node | None) -> Changes:
        """The own node's addresses, interfaces or zone may have changed."""
        before = self.node
        self.node = node.seen_as(node_object)
        if self.node == before:
            return {}
        changes = _difference(self.renderer.node(before), self.renderer.node(self.node))
        place, self._place = self._place, self.node.place
        concerned: set[str] = set()
        if place != self._place:
            concerned |= self._look_again()
        if msgspec.structs.replace(before, zone="") != msgspec.structs.replace(self.node, zone=""):
            for name, entry in list(self._entries.items()):
                if entry.service.type != "ClusterIP" or entry.service.external_ips:
                    self._entries[name] = self._enter(name, entry.service)
                    concerned |= self._reclaim(name, entry.claims, self._entries[name].claims)
        return changes | self._redraw(sorted(concerned & self._entries.keys()))

    def interfaces_changed(self, interfaces: Collection[str]) -> Changes:
        """The interfaces of this node's pods."""
        wanted = frozenset(interfaces)
        changes: Changes = {self.renderer.interface(name)[0]: None for name in self.interfaces - wanted}
        changes |= dict(map(self.renderer.interface, wanted - self.interfaces))
        self.interfaces = wanted
        return changes

    # ------------------------------------------------------------------ views

    @property
    def frontends_version(self) -> int:
        """Grows whenever ``frontends`` changes."""
        self.frontends()
        return self._version

    def frontends(self) -> Mapping[FrontendKey, Frontend]:
        """The frontends that policies must know (``contiv.model.service``), a live read-only view.

        Values keep their identity while they do not change.
        """
        changed = False
        for name in sorted(self._unshown):
            old = self._shown.pop(name, ())
            new = {frontend.key: frontend for frontend in self._of_interest(name)}
            for key in old:
                if key not in new and key in self._frontends and self._frontends[key].service == name:
                    del self._frontends[key]
                    changed = True
            for key, frontend in new.items():
                if self._frontends.get(key) != frontend:
                    self._frontends[key] = frontend
                    changed = True
            if new:
                self._shown[name] = tuple(new)
        self._unshown.clear()
        self._version += changed
        return MappingProxyType(self._frontends)

    def faults(self) -> list[Fault]:
        """What is wrong with services and slices now, in order."""
        return sorted({fault for name in (*self._entries, *self._slices) for fault in self.faults_of(name)})

    def faults_of(self, name: str) -> frozenset[Fault]:
        """What is wrong with one service and its slices."""
        entry = self._entries.get(name)
        found = list(entry.faults) if entry is not None else []
        for key, each in self._slices.get(name, {}).items():
            found += each.faults
            found += [self._stranger(key, text) for text in each.strangers if not self._is_nodes(text)]
        for claim in entry.claims if entry is not None else ():
            winner = self._claimants[claim.key][0][1]
            if winner != name:
                found.append(_conflict(name, claim, winner))
        return frozenset(found)

    def services(self) -> list[dict[str, object]]:
        """Every claim that is held here with what answers it, for people."""
        return [
            {
                "service": name,
                "type": entry.service.type,
                "from": Kind(claim.kind).name,
                "address": str(claim.address),
                "port": claim.port,
                "protocol": PROTOCOL_NAMES[claim.protocol],
                "answer": answer.answer.value,
                "clientHidden": answer.hide_client,
                "backends": [f"{each.address}:{each.port}" for each in self.renderer.backends(answer, self.node)],
            }
            for name, entry in sorted(self._entries.items())
            for claim in self._held(name)
            for answer in (serving(entry.service, claim, self._of(name), self.node),)
        ]

    # ------------------------------------------------------------------ slices

    def _put_slice(self, key: str, slice_: kube.EndpointSlice) -> None:
        parsed = parse(slice_, self._place)
        if parsed is None:
            return
        owner = _owner(slice_)
        others = self._slices.get(owner)
        if others is None:
            self._slices[owner] = {key: parsed}
        else:
            others[key] = parsed

    def _put_pods(self, pods: Iterable[kube.Pod]) -> dict[str, kube.Service]:
        """Take in the endpoints of pods with host ports here; returns the services that they are, by name."""
        found: dict[str, kube.Service] = {}
        for pod in pods:
            pair = pod_ports(pod, self.node.name)
            parsed = parse(pair[1], self._place) if pair is not None else None
            if pair is not None and parsed is not None:
                name = name_of(pair[0])
                found[name] = pair[0]
                # nobody wrote this slice: what is wrong with the address is said of the pod
                self._slices[name] = {"": msgspec.structs.replace(parsed, faults=())}
        return found

    def _drop_slice(self, key: str, owner: str) -> None:
        slices = self._slices.get(owner)
        if slices is not None:
            slices.pop(key, None)
            if not slices:
                del self._slices[owner]

    def _look_again(self) -> set[str]:
        """Parse all slices anew, as the place changed; returns the services whose endpoints look different."""
        different = set()
        for key, slice_ in self._objects.items():
            owner = _owner(slice_)
            before = self._slices.get(owner, {}).get(key)
            self._put_slice(key, slice_)
            if self._slices.get(owner, {}).get(key) != before:
                different.add(owner)
        return different

    def _of(self, name: str) -> tuple[Slice, ...]:
        slices = self._slices.get(name)
        return tuple(slices.values()) if slices else ()

    # ------------------------------------------------------------------ claims

    def _enter(self, name: str, service: kube.Service) -> _Entry:
        claims, faults = claims_of(service, self.node)
        able = []
        found = list(faults)
        for claim in claims:
            reason = self.renderer.unable(claim)
            if reason:
                found.append(Fault(object_of(name), field_of(service, claim.index), reason))
            else:
                able.append(claim)
        if service.load_balancer_source_ranges:
            ranges, wrong = source_ranges(service)
            found += wrong
            if not any(each.version == 4 for each in ranges):  # nobody is let in, not everybody
                able = [claim for claim in able if claim.kind != Kind.LOAD_BALANCER]
        return _Entry(service, tuple(able), tuple(dict.fromkeys(found)) if found else ())

    def _claim(self, name: str, claims: Iterable[Claim]) -> set[str]:
        """Enter claims; returns the services that may have lost one."""
        losers: set[str] = set()
        for claim in claims:
            others = self._claimants.get(claim.key)
            mine = (claim.kind, name)
            if others is None:
                self._claimants[claim.key] = (mine,)
            elif mine not in others:
                self._claimants[claim.key] = tuple(sorted((*others, mine)))
                losers.update(other for _, other in others)
        losers.discard(name)
        return losers

    def _disclaim(self, name: str, claims: Iterable[Claim]) -> set[str]:
        """Withdraw claims; returns the services that may have won one."""
        winners: set[str] = set()
        for claim in claims:
            rest = tuple(each for each in self._claimants.get(claim.key, ()) if each != (claim.kind, name))
            if rest:
                self._claimants[claim.key] = rest
                winners.update(other for _, other in rest)
            else:
                self._claimants.pop(claim.key, None)
        winners.discard(name)
        return winners

    def _reclaim(self, name: str, old: tuple[Claim, ...], new: tuple[Claim, ...]) -> set[str]:
        """Replace a service's claims; returns the services that mean something else now."""
        touched = {name}
        if old != new:
            touched |= self._disclaim(name, set(old) - set(new))
            touched |= self._claim(name, new)
        return touched

    def _held(self, name: str) -> list[Claim]:
        """The claims of a service that nobody with a better one has taken; of its own equals the first.

        A health check on the host's own address needs no translation; its claim only keeps others away.
        """
        entry = self._entries.get(name)
        claims = entry.claims if entry is not None else ()
        mine = [claim for claim in claims if self._claimants[claim.key][0] == (claim.kind, name)]
        if len(mine) == 1 and mine[0].kind != HEALTH_CHECK:
            return mine
        held: dict[FrontendKey, Claim] = {}
        for claim in mine:
            if claim.kind != HEALTH_CHECK or claim.address != self.node.host:
                held.setdefault(claim.key, claim)
        return list(held.values())

    # ------------------------------------------------------------------ rendering

    def _redraw(self, names: Iterable[str]) -> Changes:
        changes: Changes = {}
        added: Changes = {}
        lost: Changes = {}
        for name in names:
            before = self._rendered.get(name, {})
            after = self._draw(name)
            for key in before:
                if key not in after and not self._shared(key, name):
                    changes[key] = None
                    lost[key] = before[key]
            added |= {
                key: value
                for key, value in after.items()
                if before.get(key) != value and not (key.startswith(SHARED) and len(self._routes[key]) > 1)
            }
            self._unshown.add(name)
            self.touched.add(name)
        for key in changes.keys() & added.keys():  # moved from one service to another: it stays
            del changes[key]
            if added[key] == lost[key]:
                del added[key]
        return changes | added

    def _draw(self, name: str) -> Mapping[str, Value]:
        """Render a service, remember what came out, and answer health checks accordingly."""
        entry = self._entries.get(name)
        held = self._held(name)
        if entry is None:
            after: Mapping[str, Value] = {}
            self._rendered.pop(name, None)
        else:
            after = self.renderer.service(entry.service, held, self._of(name), self.node)
            self._rendered[name] = after
            for key in after:
                if key.startswith(SHARED):
                    self._routes.setdefault(key, set()).add(name)
        self._check_health(name, held)
        return after

    def _shared(self, key: str, name: str) -> bool:
        """Whether a key that ``name`` gives up is another service's too."""
        if not key.startswith(SHARED):
            return False
        users = self._routes.get(key, set())
        users.discard(name)
        if not users:
            self._routes.pop(key, None)
        return bool(users)

    def _check_health(self, name: str, held: list[Claim]) -> None:
        """The check of the service that holds the port, if it is this one's."""
        before = self._health_ports.pop(name, None)
        if before is not None and before in self.health and self.health[before].service == name:
            del self.health[before]
        for claim in held:
            if claim.kind == HEALTH_CHECK:
                self.health[claim.port] = HealthCheck(name, ready_here(self._of(name)))
                self._health_ports[name] = claim.port
                return

    # ------------------------------------------------------------------ what policies and people see

    def _of_interest(self, name: str) -> Iterable[Frontend]:
        entry = self._entries.get(name)
        if entry is None:
            return
        slices = self._of(name)
        foreign = any(each.foreign for each in slices)
        service = entry.service
        restricted = bool(service.load_balancer_source_ranges)
        if not foreign and all(claim.kind == CLUSTER_IP for claim in entry.claims):
            return
        ranges = source_ranges(service)[0] if restricted else ()
        for claim in self._held(name):
            answer = serving(service, claim, slices, self.node)
            limits = ranges if claim.kind == Kind.LOAD_BALANCER else ()
            if answer.answer is Answer.DROP or claim.kind == HEALTH_CHECK:
                continue
            if claim.kind == CLUSTER_IP and answer.answer is Answer.REFUSE:
                continue
            backends = self.renderer.backends(answer, self.node)
            strange = foreign and any(each.address not in self.node.pods for each in backends)
            serves = answer.answer is SERVE
            hidden = serves and self.renderer.hides_client(answer, self.node)
            # on an address of a node or of the outside, which a pod's own list would judge before translation
            if hidden or limits or strange or (serves and claim.kind != CLUSTER_IP):
                yield Frontend(
                    address=claim.address,
                    port=claim.port,
                    protocol=claim.protocol,
                    service=name,
                    client_hidden=hidden,
                    backends=backends,
                    source_ranges=limits,
                )

    def _stranger(self, key: str, text: str) -> Fault:
        reason = f"{text} is said to be a pod's and lies outside of the pod subnet {self.node.pods}"
        slice_ = self._objects[key]
        return Fault(f"EndpointSlice {slice_.namespace}/{slice_.name}", "endpoints", f"{reason}; served all the same")

    def _is_nodes(self, text: str) -> bool:
        return self.node.belongs_to_nodes(Address.parse(text))


def _owner(slice_: kube.EndpointSlice) -> str:
    return f"{slice_.namespace}/{slice_.service_name}"


def _difference(before: Mapping[str, Value], after: Mapping[str, Value]) -> Changes:
    changes: Changes = dict.fromkeys(key for key in before if key not in after)
    return changes | {key: value for key, value in after.items() if before.get(key) != value}


def _conflict(name: str, claim: Claim, winner: str) -> Fault:
    what = Kind(claim.kind).name.lower().replace("_", " ")
    protocol = PROTOCOL_NAMES[claim.protocol]
    reason = f"{claim.address} port {claim.port} over {protocol} serves {winner}; choose another"
    return Fault(object_of(name), what, reason)
