"""The state of a node's network, and what each change of it means for VPP and Linux. No I/O.

Holds who the other nodes are, which pods are attached here, which addresses and interfaces are theirs. Every method
that changes it returns the desired keys that change with it (None removes a key). ``handler.py`` feeds it events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from contiv.config import Transport
from contiv.errors import CniError, NetworkError
from contiv.model import cnat, vpp
from contiv.model.ip import Address, Network
from contiv.model.node import Attachment, NodeClaim
from contiv.network import render_host, render_node, render_out, render_pod
from contiv.network.ipam import ClusterSubnets, PodPool
from contiv.network.naming import pod_macs, tap_name
from contiv.network.render_nic import UPLINK, Desired, Nic, Uplink
from contiv.network.slots import InterfaceSlots

CNI_CODE_IN_USE: Final = 101
"""Ours: the container ID is attached already, as another pod or in another namespace."""
CNI_CODE_NO_ADDRESS: Final = 102
"""Ours: the node's pod subnet has no free address."""

Changes = Mapping[str, object | None]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration decides: pods on TAPs or veth pairs, how many of these ahead in the end, MTU, VNI, and
    whether nodes talk through VXLAN. ``policies``: somebody decides about the access lists of all interfaces that carry
    pods' traffic; none of them is up before. ``cnat``: no pod's before CNAT knows it. ``hide_pods``: the world sees the
    node's address where pods call. ``large_segments``: TCP segments larger than the MTU may pass through VPP.
    """

    tap: bool
    prepared_target: int
    mtu: int
    vni: int
    transport: Transport = "vxlan"
    policies: bool = False
    cnat: bool = False
    hide_pods: bool = True
    large_segments: bool = True


class PodRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's sandbox that wants an interface, in CNI's words."""

    container_id: str
    if_name: str
    netns: str
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""

    @property
    def owner(self) -> str:
        """Who owns what is allocated for the request."""
        return owner_of(self.container_id, self.if_name)


def owner_of(container_id: str, if_name: str) -> str:
    """The owner's name of an attachment: a sandbox may have several interfaces."""
    return f"{container_id}/{if_name}"


class NetworkState:
    """One node's view of the cluster network."""

    def __init__(
        self,
        subnets: ClusterSubnets,
        me: NodeClaim,
        uplink: Uplink | None,
        options: Options,
        *,
        nics: tuple[Nic, ...] = (),
    ) -> None:
        """``uplink`` is the main NIC, None for a node without one; ``nics`` are its others."""
        self.subnets = subnets
        self.me = me
        self.node = subnets.node(me.id)
        self.uplink = uplink
        self.nics = nics
        self.options = options
        self.others: dict[int, NodeClaim] = {}
        self.attachments: dict[str, Attachment] = {}
        self.pool = PodPool(self.node.pod_subnet)
        self.slots = InterfaceSlots(0 if options.tap else options.prepared_target)

    def replace(self, claims: Iterable[NodeClaim], attachments: Iterable[Attachment]) -> dict[str, NetworkError]:
        """Take the cluster as it is instead of what was known; attachments that cannot be are refused by owner."""
        self.others = {claim.id: claim for claim in claims if claim.name != self.me.name}
        self.attachments = {}
        self.pool = self.pool.emptied()
        self.slots = InterfaceSlots(self.slots.target, prepared=self.slots.prepared)
        refused: dict[str, NetworkError] = {}
        for attachment in attachments:
            owner = owner_of(attachment.container_id, attachment.if_name)
            try:
                self._restore(owner, attachment)
            except NetworkError as error:
                refused[owner] = error
        return refused

    def _restore(self, owner: str, attachment: Attachment) -> None:
        self.pool.claim(attachment.ip, owner)
        if not self.options.tap:
            try:
                self.slots.claim(attachment.interface, owner)
            except NetworkError:
                self.pool.release(owner)
                raise
        self.attachments[owner] = attachment

    def desired(self) -> Desired:
        """Everything that this node's VPP and Linux should hold for the network."""
        options = self.options
        desired = self._host() | self._way_out()
        if options.transport != "nooverlay":
            bvi = render_node.render_bvi(self.node, mtu=options.mtu, large_segments=options.large_segments)
            desired |= self._judged(bvi, render_node.BVI)
        for claim in self.others.values():
            desired |= self._other(claim)
        desired |= self._spares()
        for attachment in self.attachments.values():
            desired |= self._pod(attachment)
        return desired

    def node_claimed(self, claim: NodeClaim) -> Changes:
        """Another node took an ID, or its address changed."""
        if claim.name == self.me.name:
            return {}
        before = self._other(self.others[claim.id]) if claim.id in self.others else {}
        self.others[claim.id] = claim
        return _difference(before, self._other(claim))

    @property
    def node_interfaces(self) -> tuple[str, ...]:
        """The interfaces that the other nodes' traffic comes and goes by."""
        match self.options.transport:
            case "vxlan":
                return (render_node.BVI,)
            case "nooverlay":
                return (UPLINK,)
            case _:
                return (render_node.BVI, UPLINK)

    @property
    def pod_interfaces(self) -> frozenset[str]:
        """The interfaces of this node's pods, those included that are kept ahead of them."""
        return self.slots.ahead.union(pod.interface for pod in self.attachments.values())

    @property
    def snat_interface(self) -> str | None:
        """What leaves by this interface gets the node's address; None where nothing does."""
        if self.uplink is None or not self.options.hide_pods:
            return None
        return UPLINK if UPLINK not in self.node_interfaces else render_out.SNAT

    def host_keys(self) -> set[str]:
        """The keys without which the host does not reach the world by VPP."""
        return set(self._host())

    def address_changed(self, name: str, address: Network | None, gateway: Address | None) -> Changes:
        """The NIC ``name`` has another address (None: none any more), and the main one another router perhaps."""
        before = self._addressed()
        if name == UPLINK and self.uplink is not None:
            self.uplink = msgspec.structs.replace(self.uplink, address=address, gateway=gateway)
            self.me = msgspec.structs.replace(self.me, uplink="" if address is None else str(address))
        self.nics = tuple(
            msgspec.structs.replace(nic, address=address) if nic.name == name else nic for nic in self.nics
        )
        return _difference(before, self._addressed())

    def reconfigure(self, uplink: Uplink | None, nics: Iterable[Nic], *, hide_pods: bool) -> None:
        """The same NICs with other addresses, another gateway; ``desired`` tells what that means. What a DHCP server
        gave stays; a main NIC without an address has the one of the node's ID."""
        known = {nic.name: nic.address for nic in self.nics}
        self.options = msgspec.structs.replace(self.options, hide_pods=hide_pods)
        self.nics = tuple(
            msgspec.structs.replace(nic, address=known.get(nic.name)) if nic.dhcp else nic for nic in nics
        )
        if uplink is None or self.uplink is None:
            return
        if uplink.dhcp:
            uplink = msgspec.structs.replace(uplink, address=self.uplink.address, gateway=self.uplink.gateway)
        elif uplink.address is None:
            uplink = msgspec.structs.replace(uplink, address=self.node.uplink)
        self.uplink = uplink
        self.me = msgspec.structs.replace(self.me, uplink="" if uplink.address is None else str(uplink.address))

    def _addressed(self) -> Desired:
        """Everything that depends on the NICs' addresses."""
        desired = self._host() | self._way_out()
        for claim in self.others.values():
            desired |= self._other(claim)
        return desired

    @property
    def _diverts(self) -> bool:
        """Whether pods leave the cluster another way than they reach other nodes."""
        return self.snat_interface == render_out.SNAT

    def _way_out(self) -> Desired:
        if self.uplink is None or not self._diverts:
            return {}
        return render_out.render(self.subnets, self.node, self.uplink, nics=self.nics)

    def _host(self) -> Desired:
        options = self.options
        host = render_host.render(
            self.subnets,
            self.node,
            self.uplink,
            others=self.nics,
            tap=options.tap,
            mtu=options.mtu,
            large_segments=options.large_segments,
        )
        outward = (self.uplink, *self.nics) if self.uplink is not None else self.nics
        return self._judged(host, render_host.HOST_VPP, *(nic.name for nic in outward))

    def _judged(self, desired: Desired, *names: str) -> Desired:
        """The node's own interfaces go up with their access lists in place, as pods' do: after a restart of VPP nothing
        comes in or out before that."""
        if self.options.policies:
            for name in names:
                up = vpp.AdminUp(interface=name, requires=(vpp.acl_interface_key(name),))
                desired[vpp.key_of(up)] = up
        return desired

    def node_released(self, node_id: int) -> Changes:
        """A node gave up its ID, or it was taken from it."""
        claim = self.others.pop(node_id, None)
        return {} if claim is None else dict.fromkeys(self._other(claim))

    def add_pod(self, request: PodRequest) -> tuple[Attachment, Changes]:
        """Attach a pod; asked again for the same sandbox, the same attachment and no change.

        CniError when the sandbox is attached otherwise, or there is no address left.
        """
        known = self.attachments.get(request.owner)
        if known is not None:
            _same_or_refuse(known, request)
            return known, {}
        try:
            address = self.pool.allocate(request.owner)
        except NetworkError as error:
            raise CniError(CNI_CODE_NO_ADDRESS, "no free pod address", details=str(error)) from error
        attachment = self._attachment(request, address)
        self.attachments[request.owner] = attachment
        return attachment, self._pod(attachment)

    def delete_pod(self, container_id: str, if_name: str) -> tuple[Attachment | None, Changes]:
        """Detach a pod; for an unknown one nothing."""
        owner = owner_of(container_id, if_name)
        attachment = self.attachments.pop(owner, None)
        if attachment is None:
            return None, {}
        self.pool.release(owner)
        before = self._pod(attachment)
        if self.options.tap:
            return attachment, dict.fromkeys(before)
        name = self.slots.release(owner)
        assert name is not None, "an attachment on veth always has a slot"
        kept = self._slot(name) if self.slots.exists_ahead(name) else {}
        return attachment, _difference(before, kept)

    def spares(self) -> Changes:
        """The spare slots; setting those that exist already changes nothing."""
        return {**self._spares()}

    def _spares(self) -> Desired:
        desired: Desired = {}
        for name in self.slots.spare():
            desired |= self._slot(name)
        return desired

    def _slot(self, name: str) -> Desired:
        options = self.options
        slot = render_pod.render_slot(name, self.node, mtu=options.mtu, large_segments=options.large_segments)
        return slot | self._diversion(name)

    def _diversion(self, name: str) -> Desired:
        return dict([vpp.entry(render_out.diverted(name))]) if self._diverts else {}

    def _attachment(self, request: PodRequest, address: Address) -> Attachment:
        tap = self.options.tap
        name = tap_name(request.container_id, request.if_name) if tap else self.slots.allocate(request.owner)
        pod_mac, vpp_mac = pod_macs(self.node.node_id, name)
        return Attachment(
            container_id=request.container_id,
            if_name=request.if_name,
            netns=request.netns,
            pod_namespace=request.pod_namespace,
            pod_name=request.pod_name,
            pod_uid=request.pod_uid,
            address=str(address),
            interface=name,
            pod_mac=pod_mac,
            vpp_mac=vpp_mac,
        )

    def _pod(self, attachment: Attachment) -> Desired:
        options = self.options
        name = attachment.interface
        diverted = self._diversion(name)
        judged = (vpp.acl_interface_key(name),) if options.policies else ()
        ready = (*diverted, *judged, *((cnat.interface_key(name),) if options.cnat else ()))
        return diverted | render_pod.render(
            attachment,
            self.node,
            tap=options.tap,
            mtu=options.mtu,
            large_segments=options.large_segments,
            ready=ready,
        )

    def _other(self, claim: NodeClaim) -> Desired:
        if self.uplink is None or not claim.uplink:
            return {}
        transport = self.options.transport
        way_out = render_out.render_node(claim) if self._diverts else {}
        if transport == "nooverlay" or (transport == "auto" and render_node.is_on_link(self.uplink, claim)):
            return way_out | render_node.render_direct(self.subnets, self.uplink, claim)
        return way_out | render_node.render_tunnel(self.subnets, self.uplink, claim, vni=self.options.vni)


def _same_or_refuse(known: Attachment, request: PodRequest) -> None:
    """A repeated ADD must be for the same pod in the same namespace (CNI 1.1, ADD: the runtime owns the ID)."""
    for field in ("netns", "pod_namespace", "pod_name"):
        have, asked = getattr(known, field), getattr(request, field)
        if have != asked:
            raise CniError(
                CNI_CODE_IN_USE,
                f"container {request.container_id} is attached already",
                details=f"{field} is {have!r} and was asked for as {asked!r}; delete it first",
            )


def _difference(before: Desired, after: Desired) -> Changes:
    """The keys to remove and the values to set on the way from ``before`` to ``after``."""
    gone: dict[str, object | None] = dict.fromkeys(key for key in before if key not in after)
    return gone | {key: value for key, value in after.items() if before.get(key) != value}
