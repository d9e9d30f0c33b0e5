"""What kubelet asks of the network: events that wait for their answer."""

from __future__ import annotations

from typing import ClassVar

from contiv.controller.event import Event, Kind, Transaction
from contiv.model.ip import Address, Network
from contiv.network.render_nic import UPLINK, Nic, Uplink
from contiv.network.state import PodRequest


class AddPod(Event, frozen=True):
    """Attach a pod; the answer is its ``Attachment``. A failure leaves nothing of it."""

    transaction: ClassVar[Transaction] = Transaction.REVERT_ON_FAILURE
    request: PodRequest

    def describe(self) -> str:
        request = self.request
        return f"{request.pod_namespace}/{request.pod_name} {request.owner}"


class DeletePod(Event, frozen=True):
    """Detach a pod; for an unknown one nothing happens."""

    container_id: str
    if_name: str

    def describe(self) -> str:
        return f"{self.container_id}/{self.if_name}"


class PrepareInterfaces(Event, frozen=True):
    """Make some more of the interfaces that are kept ahead of need."""


class AddressChange(Event, frozen=True):
    """A NIC got another address (None: lost it), and another router perhaps."""

    interface: str
    address: Network | None
    gateway: Address | None

    def describe(self) -> str:
        return f"{self.interface} has {self.address or 'no address'}"


class NicsChange(Event, frozen=True):
    """The configuration gives the node's NICs other addresses, another gateway, or hides pods otherwise.

    Everything is recomputed, for there is little that does not depend on one of them.
    """

    kind: ClassVar[Kind] = Kind.UPSTREAM_RESYNC
    uplink: Uplink | None
    nics: tuple[Nic, ...]
    hide_pods: bool

    def describe(self) -> str:
        address = self.uplink.address if self.uplink is not None else None
        return f"{UPLINK} has {address or 'the address of before'}"


class SettleClaims(Event, frozen=True):
    """Try again to release and claim node IDs, which etcd refused."""
