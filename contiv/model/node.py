"""What agents keep in etcd of nodes and pods: claims on node IDs and pod attachments. Frozen, JSON, readable."""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.model.ip import Address, Network

NO_ADDRESS: Final = Address(4, 0)


class NodeClaim(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A node's claim on an ID. ``uplink`` is the data plane address with prefix length, as other nodes reach it;
    empty while the node waits for a DHCP server to lease it one."""

    id: int
    name: str
    uplink: str

    @property
    def uplink_address(self) -> Address:
        """The address that other nodes reach this one at; 0.0.0.0 while there is none."""
        return NO_ADDRESS if not self.uplink else Network.parse(self.uplink, strict=False).address


class Attachment(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One pod's connection: what kubelet asked for, the address and the interface that it got.

    ``interface`` is the logical name in VPP and, for a veth pair, the Linux name of VPP's end. ``pod_mac`` and
    ``vpp_mac`` are the addresses of the two ends.
    """

    container_id: str
    if_name: str
    netns: str
    pod_namespace: str
    pod_name: str
    pod_uid: str
    address: str
    interface: str
    pod_mac: str
    vpp_mac: str

    @property
    def ip(self) -> Address:
        """The pod's address."""
        return Address.parse(self.address)


class ConfigVerdict(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What an agent made of its node's ``NodeConfig`` resource, by the resource's fingerprint. ``problem`` says why it
    is not in force; empty when it is."""

    fingerprint: str
    problem: str = ""


class NodeStatus(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What an agent tells the cluster of itself, under its lease: gone with the agent.

    ``rest`` is where ``netctl`` reaches it: ``http://host:port`` or ``unix:/path``. Networks and addresses as text.
    ``node_config`` is None while the file alone counts.
    """

    id: int
    name: str
    version: str
    dataplane: str
    started_at: str
    rest: str
    pod_subnet: str
    pod_cluster_subnet: str
    host_subnet: str
    host_address: str
    uplink: str
    vxlan: str
    node_config: ConfigVerdict | None = None
