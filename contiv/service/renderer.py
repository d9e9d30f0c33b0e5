"""What a renderer makes of services for one kind of data plane, and what all renderers share. Pure.

``contiv.service.state`` decides what changed and hands over a service whole, with the claims that it holds and its
slices; the renderer answers with desired keys and values. ``serving`` is the decision that all renderers follow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Final, Protocol

import msgspec

from contiv.model import cnat, kube, vpp
from contiv.model.ip import Address
from contiv.model.service import Backend
from contiv.service.endpoints import Choice, Slice, choose
from contiv.service.frontends import CLUSTER_IP, HEALTH_CHECK, LOCAL_POLICY, Claim, NodeView

REFUSING_PORT: Final = 1
"""The host answers there with a TCP reset or ICMP port unreachable: tcpmux, historic since RFC 7805."""


Value = vpp.Value | cnat.Value


class Answer(Enum):
    """What a frontend does with a connection. REFUSE: at once and audibly. DROP: a traffic policy Local without an
    endpoint on this node, while other nodes have some."""

    SERVE = "serve"
    REFUSE = "refuse"
    DROP = "drop"


SERVE: Final = Answer.SERVE
"""Python 3.11 finds a member of an enumeration slowly."""


class Part(msgspec.Struct, frozen=True, gc=False):
    """One slice's endpoints with the port number that they serve a service's port on."""

    slice: Slice
    port: int


class Serving(msgspec.Struct, frozen=True, gc=False):
    """What stands behind a claim: ``choice`` picks among the endpoints of ``parts``; where the answer is REFUSE, they
    are a port of the host that nobody listens on.

    ``hide_client``: the endpoint shall not see the client's address, so that its replies come back this way. The
    host, which answers health checks and refuses, may have no route to the client but this one.
    """

    answer: Answer
    parts: tuple[Part, ...] = ()
    choice: Choice = (0, 0)
    hide_client: bool = False


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration decides. ``local_weight``: an endpoint of this node counts for so many others.
    Timeouts in seconds; ``sessions`` a thread."""

    local_weight: int = 1
    tcp_session_s: int = 180 * 60
    other_session_s: int = 5 * 60
    sessions: int = 128 * 1024


class Renderer(Protocol):
    """Desired keys and values for one kind of data plane."""

    def unable(self, claim: Claim) -> str:
        """Why the claim cannot be served, with a remedy; "" if it can."""
        ...

    def node(self, node: NodeView) -> Mapping[str, Value]:
        """What stands without any service."""
        ...

    def interface(self, name: str) -> tuple[str, Value]:
        """What a pod's interface needs for its pod to be a client or a backend."""
        ...

    def service(
        self, service: kube.Service, claims: Iterable[Claim], slices: Sequence[Slice], node: NodeView
    ) -> Mapping[str, Value]:
        """The keys of one service, for the claims that it holds."""
        ...

    def backends(self, serving: Serving, node: NodeView) -> tuple[Backend, ...]:
        """Where connections end."""
        ...

    def hides_client(self, serving: Serving, node: NodeView) -> bool:
        """Whether there is a backend that does not see the client's address, so that nobody can judge it there."""
        ...


def serving(service: kube.Service, claim: Claim, slices: Sequence[Slice], node: NodeView) -> Serving:
    """Who answers a claim on this node, by the service's traffic policies and its endpoints."""
    if claim.kind == HEALTH_CHECK:
        return Serving(SERVE, (_host(node, claim.port),), hide_client=True)
    external = claim.kind != CLUSTER_IP
    policy = service.external_traffic_policy if external else service.internal_traffic_policy
    local = policy == LOCAL_POLICY
    port = service.ports[claim.index]
    parts = [
        Part(each, endpoint.port)
        for each in slices
        if each.version == claim.address.version
        for endpoint in each.ports
        if endpoint.port and endpoint.name == port.name and endpoint.protocol == port.protocol
    ]
    kinds = parts[0].slice.kinds if len(parts) == 1 else sorted({kind for part in parts for kind in part.slice.kinds})
    ready = service.publish_not_ready_addresses
    wish = service.traffic_distribution
    choice = choose(kinds, local=local, publish_not_ready=ready, distribution=wish)
    if choice is not None:
        return Serving(SERVE, tuple(parts), choice, external and not local)
    if local and choose(kinds, local=False, publish_not_ready=ready, distribution="") is not None:
        return Serving(Answer.DROP)
    return Serving(Answer.REFUSE, (_host(node, REFUSING_PORT),), hide_client=True)


def _host(node: NodeView, port: int) -> Part:
    return Part(Slice(node.host.version, node.host.packed, bytes(1), bytes(1), (), True, (), ()), port)


def address_of(packed: bytes) -> Address:
    """4 or 16 bytes in network order."""
    return Address(4 if len(packed) == 4 else 6, int.from_bytes(packed, "big"))
