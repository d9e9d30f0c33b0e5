"""Services as load-balancing mappings of VPP's NAT44-ED, and source NAT of what leaves the cluster. Pure.

One VRF. Interfaces that clients or backends are behind are inside and outside at once; the uplink has the output
feature, so that what leaves by it gets the node's address. Mappings are out2in-only: what a backend says of its own
accord keeps its address.

- A cluster IP, and what has the traffic policy Local: the backend sees the client, or the twice-NAT address where the
  client is the backend itself (self-twice-NAT).
- Node ports, external and load-balancer IPs with policy Cluster: the backend always sees the twice-NAT address, or
  replies of a backend on another node would leave there, untranslated.
- No endpoint anywhere: a route for the cluster IP alone answers with ICMP unreachable. (That of the service CIDR does
  not always get to see it: once an interface has become outside, VPP takes the addresses of mappings for its own.)
  Elsewhere the host refuses, on a port without listener.
- Policy Local and no endpoint here: dropped, by a route for the address alone.

Backends weigh 2 each instead of 1 where that many fit. VPP draws from a linear congruential generator
(vppinfra/random.h, random_u32) whose lowest bit alternates, and takes a second number for the port of a client that
it hides: of two backends with weight 1 such clients always met the same one.

Endpoints that still serve while they end, and are not chosen, stay in the mapping with weight 0: their connections go
on, and end when the endpoint leaves its slice. Affinity knows backends by their place, so that such services do
without.

NAT44-ED knows no ports of SCTP (nat44_ed_is_unk_proto in nat44_ed_inlines.h) and no IPv6: such claims are refused
with a fault.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from contiv.fastpath import hashing
from contiv.model import kube, vpp
from contiv.model.ip import Address
from contiv.model.service import Backend
from contiv.service.endpoints import DRAINING, LOCAL, READY, Choice, Slice
from contiv.service.frontends import CLUSTER_IP, PROTOCOLS, VXLAN_PORT, Claim, Kind, NodeView, name_of
from contiv.service.renderer import SERVE, Answer, Options, Part, Serving, serving

UDP: Final = PROTOCOLS["UDP"]
SCTP: Final = PROTOCOLS["SCTP"]
MAIN_VRF: Final = 0
TCP_TRANSITORY_S: Final = 240
ICMP_S: Final = 60
"""VPP's own defaults (plugins/nat/lib/nat_inlines.h): connections that open or close, and echo requests."""
WEIGHT_AT: Final = 6
"""Where a record's weight stands: behind the address and port."""
_RECORD: Final = struct.Struct(">IHBI")
_ROOM: Final = vpp.NAT_BACKENDS_MAX * vpp.NAT_LOCAL_SIZE
_STEADY: Final = bytes(kind for kind in range(256) if not kind & DRAINING)


class Nat44Renderer:
    """``contiv.service.renderer.Renderer`` for NAT44-ED."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def unable(self, claim: Claim) -> str:
        """NAT44-ED's limits."""
        if claim.address.version != 4:
            return f"{claim.address} is IPv6, which NAT44-ED cannot translate; not served"
        if claim.protocol == SCTP:
            return "NAT44-ED cannot tell SCTP ports apart; not served: use TCP or UDP"
        return ""

    def node(self, node: NodeView) -> dict[str, vpp.Value]:
        """NAT itself, the node's interfaces and addresses, and the answer for services without endpoints."""
        options = self.options
        values: list[vpp.Value] = [
            vpp.NatSettings(
                sessions=options.sessions,
                udp_s=options.other_session_s,
                tcp_established_s=options.tcp_session_s,
                tcp_transitory_s=min(TCP_TRANSITORY_S, options.tcp_session_s),
                icmp_s=min(ICMP_S, options.other_session_s),
            ),
            vpp.NatAddress(address=node.hidden, twice=True),
            vpp.Route(vrf=MAIN_VRF, destination=node.services, reject=True),
        ]
        values += [
            vpp.NatInterface(interface=name, inside=name not in node.outside, outside=True) for name in node.interfaces
        ]
        if node.uplink is not None:
            values.append(vpp.NatIdentity(address=node.uplink, protocol=UDP, port=VXLAN_PORT))
            if node.snat_interface is not None:
                values.append(vpp.NatAddress(address=node.uplink))
                # a node that is outside by another interface gets replies there
                one_way = bool(node.outside)
                values.append(vpp.NatInterface(interface=node.snat_interface, output=True, one_way=one_way))
        return dict(vpp.entry(value) for value in values)

    def interface(self, name: str) -> tuple[str, vpp.Value]:
        """A pod is client and backend."""
        return vpp.entry(vpp.NatInterface(interface=name, inside=True, classified=True))

    def service(
        self, service: kube.Service, claims: Iterable[Claim], slices: Sequence[Slice], node: NodeView
    ) -> dict[str, vpp.Value]:
        """A mapping for each claim that serves or refuses, a route for each that drops."""
        rendered: dict[str, vpp.Value] = {}
        known: dict[tuple[int, bool], tuple[Serving, bytes]] = {}
        affinity_s = service.session_affinity_timeout_s if service.session_affinity == "ClientIP" else 0
        label = name_of(service)
        for claim in claims:
            # claims of one port differ in what the two traffic policies say, and in nothing else
            internal = claim.kind == CLUSTER_IP
            kind = (claim.index, internal)
            if kind not in known:
                answer = serving(service, claim, slices, node)
                records = self._records(answer, node)
                known[kind] = (answer, records if affinity_s else _with_draining(records, answer))
            answer, records = known[kind]
            serves = answer.answer is SERVE
            if serves or (answer.answer is Answer.REFUSE and not internal):
                address, port, protocol = claim.address, claim.port, claim.protocol
                rendered[vpp.nat_mapping_key(address, port, protocol)] = vpp.NatMapping(
                    address=address,
                    port=port,
                    protocol=protocol,
                    backends=records,
                    affinity_s=affinity_s if serves else 0,
                    hide_client=answer.hide_client,
                    label=label,
                )
            elif answer.answer is Answer.DROP and _drops(claim, node):
                key, route = vpp.entry(vpp.Route(vrf=MAIN_VRF, destination=claim.address.host_network))
                rendered[key] = route
            elif answer.answer is Answer.REFUSE:
                refusal = vpp.Route(vrf=MAIN_VRF, destination=claim.address.host_network, reject=True)
                key, route = vpp.entry(refusal)
                rendered[key] = route
        return rendered

    def backends(self, serving: Serving, node: NodeView) -> tuple[Backend, ...]:
        """Where connections end; nowhere if they are refused."""
        if serving.answer is not SERVE:
            return ()
        return tuple(_unpack(self._records(serving, node)))

    def hides_client(self, serving: Serving, node: NodeView) -> bool:
        """All backends see the same."""
        return serving.hide_client

    def _records(self, answer: Serving, node: NodeView) -> bytes:
        if not answer.parts:  # dropped
            return b""
        # shares stay; of weights like these the lowest bit does not matter
        return hashing.double_weights(self._pack(answer.parts, answer.choice, node), vpp.NAT_BACKENDS_MAX)

    def _pack(self, parts: tuple[Part, ...], choice: Choice, node: NodeView) -> bytes:
        """As many as one mapping can take; of more, the node's consistent share."""
        weight = self.options.local_weight
        packed = hashing.pack_backends(
            [(part.slice.addresses, part.slice.flags, part.port) for part in parts], *choice, heavy=LOCAL, weight=weight
        )
        if weight == 1 and len(packed) <= _ROOM:
            return packed
        return hashing.bound_backends(packed, hashing.fingerprint(node.name.encode()), vpp.NAT_BACKENDS_MAX)


def _with_draining(records: bytes, answer: Serving) -> bytes:
    """The backends, and with weight 0 those that end and are not among them, as far as there is room."""
    _, want = answer.choice
    if not want & READY or not _drain(answer.parts):
        return records
    draining = DRAINING | want & LOCAL
    ending = hashing.pack_backends(
        [(part.slice.addresses, part.slice.flags, part.port) for part in answer.parts], draining, draining
    )
    found = {records[at : at + WEIGHT_AT]: records[at : at + vpp.NAT_LOCAL_SIZE] for at in _starts(records)}
    for at in _starts(ending):
        if len(found) < vpp.NAT_BACKENDS_MAX:
            idle = ending[at : at + WEIGHT_AT] + bytes(1) + ending[at + WEIGHT_AT + 1 : at + vpp.NAT_LOCAL_SIZE]
            found.setdefault(ending[at : at + WEIGHT_AT], idle)
    return b"".join(found[key] for key in sorted(found))


def _drain(parts: Iterable[Part]) -> bool:
    """Whether some endpoint does."""
    for part in parts:  # noqa: SIM110 - asked for every service, and mostly there is one part
        if part.slice.kinds.translate(None, _STEADY):
            return True
    return False


def _starts(records: bytes) -> range:
    return range(0, len(records), vpp.NAT_LOCAL_SIZE)


def _drops(claim: Claim, node: NodeView) -> bool:
    """Whether a route can drop the claim's traffic: a node's own address has other uses, and VPP answers nothing on
    a port of it that nobody has."""
    return claim.kind not in (Kind.NODE_PORT, Kind.HEALTH_CHECK) and not node.belongs_to_nodes(claim.address)


def _unpack(records: bytes) -> Iterator[Backend]:
    for address, port, _, _ in _RECORD.iter_unpack(records):
        yield Backend(Address(4, address), port)
