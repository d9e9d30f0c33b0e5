"""What the network capability keeps in etcd: claims on node IDs and pod attachments. Frozen, JSON, readable."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from contiv.model.ip import Address, Network
from contiv.model.vpp import NAME_MAX

POD_NAME_PREFIX: Final = "pod"


class NodeClaim(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A node's claim on an ID. ``uplink`` is the data plane address with prefix length, as other nodes reach it."""

    id: int
    name: str
    uplink: str

    @property
    def uplink_address(self) -> Address:
        """The address that tunnels to this node end at."""
        return Network.parse(self.uplink, strict=False).address


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


def tap_name(container_id: str, if_name: str) -> str:
    """The name of a sandbox's TAP: 48 bits of a hash, so that it fits IFNAMSIZ and never depends on order."""
    digest = hashlib.sha256(f"{container_id}/{if_name}".encode()).hexdigest()
    return f"{POD_NAME_PREFIX}{digest[: NAME_MAX - len(POD_NAME_PREFIX)]}"


def pod_macs(node_id: int, interface: str) -> tuple[str, str]:
    """The MAC addresses of a pod's end and of VPP's end, both locally administered, from node and interface."""
    octets = hashlib.sha256(f"{node_id}/{interface}".encode()).digest()[:4]
    tail = ":".join(f"{octet:02x}" for octet in octets)
    return f"02:fe:{tail}", f"02:ff:{tail}"


def node_mac(prefix: tuple[int, int], node_id: int) -> str:
    """A MAC address made of two leading octets and the node ID: unique in the cluster without asking anyone."""
    return ":".join(f"{octet:02x}" for octet in (*prefix, *node_id.to_bytes(4, "big")))
