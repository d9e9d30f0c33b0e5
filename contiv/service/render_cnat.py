"""Services as translations of VPP's CNAT, balanced by Maglev, beside NAT44-ED for what leaves the cluster. Pure.

CNAT translates where a packet is routed: a service's address is a route that leads through ``ip4-cnat-tx``, and so does
a client's, whose replies get the service's address back. Interfaces need no features, and access lists see what they
see with NAT44-ED: the service's address on input, the backend on output. (CNAT's features on interfaces, the other
way, are not safe beside ICMP errors that VPP itself sends: docs/decisions/cnat-services.md.)

- A cluster IP, and what has the traffic policy Local: the backend sees the client. Where it is the client itself, it
  sees the hidden address: each pod of this node that serves such a frontend has a ``CnatHairpin``. A backend on the
  host always sees the hidden address instead, since an address of the node cannot have one.
- Node ports, external and load-balancer IPs with policy Cluster: the backend always sees the hidden address, so that
  replies of other nodes' pods come back by this node.
- No endpoint anywhere: the backend is the host, on a port without listener. A connection that CNAT has met without a
  translation stays untranslated as long as it is not idle, so there is one from the beginning.
- Policy Local and no endpoint here: the backend is an address that VPP drops everything for.

CNAT stands before a route only if the route leads somewhere: addresses outside of the service network that are not the
node's own get one that refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from contiv.fastpath import hashing
from contiv.model import cnat, kube, vpp
from contiv.model.service import Backend
from contiv.service.endpoints import Slice
from contiv.service.frontends import VXLAN_PORT, Claim, Kind, NodeView
from contiv.service.render_nat44 import ICMP_S, MAIN_VRF, SCTP, TCP_TRANSITORY_S, UDP
from contiv.service.renderer import Answer, Options, Part, Serving, Value, serving

OWN_KINDS: Final = frozenset({Kind.NODE_PORT, Kind.HEALTH_CHECK, Kind.HOST_PORT})
"""Claims of addresses that are the node's, to which there is a route already."""
NAT44_RECORD: Final = vpp.NAT_LOCAL_SIZE
TARGET: Final = 6
"""Of a record of NAT44-ED's: address and port, before weight and VRF."""


class CnatRenderer:
    """``contiv.service.renderer.Renderer`` for CNAT."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def unable(self, claim: Claim) -> str:
        """What CNAT, or what stands beside it, cannot carry."""
        if claim.address.version == 6 and claim.kind != Kind.CLUSTER_IP:
            return f"{claim.address}: nodes have no IPv6 here, so nobody reaches it; not served: use an IPv4 address"
        if claim.address.version == 6 and claim.protocol == SCTP:
            return "CNAT has no SCTP over IPv6; not served: use IPv4"
        return ""

    def node(self, node: NodeView) -> dict[str, Value]:
        """CNAT, the interfaces that it must know, source NAT, and the answer for services that are not there."""
        names = (*node.interfaces, *((node.snat_interface,) if node.snat_interface is not None else ()))
        own: list[cnat.Value] = [
            cnat.CnatSettings(hidden=node.hidden),
            cnat.CnatHairpins(interfaces=names),
            *(cnat.CnatInterface(interface=name) for name in names),
        ]
        values: list[vpp.Value] = [vpp.Route(vrf=MAIN_VRF, destination=node.services, reject=True)]
        if node.uplink is not None and node.snat_interface is not None:
            values += self._source_nat(node)
        return dict(map(cnat.entry, own)) | dict(map(vpp.entry, values))

    def _source_nat(self, node: NodeView) -> list[vpp.Value]:
        """NAT44-ED at the uplink alone. It lets replies to whoever came in pass as they are."""
        assert node.uplink is not None
        assert node.snat_interface is not None
        options = self.options
        return [
            vpp.NatSettings(
                sessions=options.sessions,
                udp_s=options.other_session_s,
                tcp_established_s=options.tcp_session_s,
                tcp_transitory_s=min(TCP_TRANSITORY_S, options.tcp_session_s),
                icmp_s=min(ICMP_S, options.other_session_s),
            ),
            vpp.NatAddress(address=node.uplink),
            vpp.NatIdentity(address=node.uplink, protocol=UDP, port=VXLAN_PORT),
            vpp.NatInterface(interface=node.snat_interface, output=True),
        ]

    def interface(self, name: str) -> tuple[str, Value]:
        """A pod is a client that keeps its address."""
        return cnat.entry(cnat.CnatInterface(interface=name))

    def service(
        self, service: kube.Service, claims: Iterable[Claim], slices: Sequence[Slice], node: NodeView
    ) -> dict[str, Value]:
        """A translation for each claim, a route where none leads to it, and hairpins of this node's pods."""
        rendered: dict[str, Value] = {}
        known: dict[tuple[int, bool, int], tuple[Serving, bytes]] = {}
        affinity = service.session_affinity == "ClientIP"
        for claim in claims:
            kind = (claim.index, claim.kind == Kind.CLUSTER_IP, claim.address.version)
            if kind not in known:
                answer = serving(service, claim, slices, node)
                known[kind] = (answer, self._records(answer, claim.address.version, node))
            answer, records = known[kind]
            if _needs_route(claim, node):
                key, route = vpp.entry(vpp.Route(vrf=MAIN_VRF, destination=claim.address.host_network, reject=True))
                rendered[key] = route
            if claim.protocol == SCTP and claim.kind != Kind.CLUSTER_IP and node.snat_interface is not None:
                # replies of other protocols pass by; of this one NAT44-ED reads no ports (nat44_ed_is_unk_proto)
                key, exempt = vpp.entry(vpp.NatIdentity(address=claim.address, protocol=SCTP))
                rendered[key] = exempt
            if not records:
                continue
            served = answer.answer is Answer.SERVE
            backends = cnat.backends(records, claim.address.version)
            translation = cnat.CnatTranslation(
                address=claim.address,
                port=claim.port,
                protocol=claim.protocol,
                backends=records,
                source=node.hidden if any(each.hidden for each in backends) else None,
                affinity=affinity and served,
            )
            rendered[cnat.key_of(translation)] = translation
            if served and not answer.hide_client:
                rendered |= dict(
                    cnat.entry(cnat.CnatHairpin(address=each.address))
                    for each in backends
                    if each.address in node.own_pods
                )
        return rendered

    def backends(self, serving: Serving, node: NodeView) -> tuple[Backend, ...]:
        """Where connections end; nowhere if they are refused."""
        if serving.answer is not Answer.SERVE or not serving.parts:
            return ()
        version = serving.parts[0].slice.version
        found = cnat.backends(self._records(serving, version, node), version)
        return tuple(Backend(each.address, each.port) for each in found)

    def hides_client(self, serving: Serving, node: NodeView) -> bool:
        """A backend on the host never sees who it is."""
        own = set(node.own_addresses)
        return serving.hide_client or any(each.address in own for each in self.backends(serving, node))

    def _records(self, answer: Serving, version: int, node: NodeView) -> bytes:
        """The backends of a translation; none where a route that refuses is the answer."""
        if answer.answer is Answer.DROP:
            return cnat.record(cnat.BLACK_HOLE[version].packed, 1, hidden=False)
        if version == 6:
            return b"" if answer.answer is Answer.REFUSE else _pack_ipv6(answer, node)
        packed = hashing.pack_backends(_columns(answer.parts), *answer.choice)
        packed = hashing.bound_backends(packed, _seed(node), cnat.BACKENDS_MAX)
        own = {each.packed for each in node.own_addresses if each.version == 4}
        return b"".join(
            packed[at : at + TARGET] + bytes((answer.hide_client or packed[at : at + 4] in own,))
            for at in range(0, len(packed), NAT44_RECORD)
        )


def _columns(parts: tuple[Part, ...]) -> list[tuple[bytes, bytes, int]]:
    return [(part.slice.addresses, part.slice.flags, part.port) for part in parts]


def _seed(node: NodeView) -> int:
    return hashing.fingerprint(node.name.encode())


def _pack_ipv6(answer: Serving, node: NodeView) -> bytes:
    """The records of IPv6 backends; of more than a translation can take, the node's consistent share."""
    mask, want = answer.choice
    records = {
        cnat.record(addresses[number * 16 : number * 16 + 16], port, hidden=False)
        for addresses, flags, port in _columns(answer.parts)
        for number, flag in enumerate(flags)
        if flag & mask == want
    }
    seed = _seed(node).to_bytes(8, "big")
    chosen = sorted(records, key=lambda each: hashing.fingerprint(seed + each))[: cnat.BACKENDS_MAX]
    return b"".join(sorted(chosen))


def _needs_route(claim: Claim, node: NodeView) -> bool:
    """Whether nothing leads to the claim's address."""
    if claim.kind in OWN_KINDS or node.belongs_to_nodes(claim.address):
        return False
    return claim.address.version != node.services.version or claim.address not in node.services
