"""Names and MAC addresses that follow from node and pod. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

from contiv.model.vpp import NAME_MAX

POD_NAME_PREFIX: Final = "pod"


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
