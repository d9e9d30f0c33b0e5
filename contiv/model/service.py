"""What policies must know of services: all frontends but the plain ones, which the data plane judges by itself.

``contiv.service`` makes these values, ``contiv.policy`` reads them; neither knows the other. A packet to a ClusterIP
whose endpoints are pods is judged after translation, where it leaves towards the pod. Two kinds of frontends are not:
those that hide the client's address (``client_hidden``: twice-NAT), and those with endpoints that are no pods. A third
kind lets in only some clients (``source_ranges``), and translation itself cannot tell them apart. A fourth is judged
after translation too, and must be known to get there: node ports, host ports and external addresses that show the
client lie where a pod's own rules would be asked about the address before it.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from contiv.model.ip import Address, Network


class Backend(msgspec.Struct, frozen=True, gc=False, order=True):
    """Where a frontend's connections end: address and port after translation."""

    address: Address
    port: int


class Frontend(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One address, port and IP protocol number that is translated here; ``service`` is ``namespace/name``, or the pod
    whose host port it is.

    ``backends`` is empty where connections are refused. ``source_ranges``: the only clients that may use it
    (loadBalancerSourceRanges); empty means anyone.
    """

    address: Address
    port: int
    protocol: int
    service: str
    client_hidden: bool
    backends: tuple[Backend, ...]
    source_ranges: tuple[Network, ...] = ()

    @property
    def key(self) -> FrontendKey:
        """What the frontend is found under: there is one for an address, port and protocol."""
        return (self.protocol, self.address, self.port)


FrontendKey: TypeAlias = tuple[int, Address, int]
