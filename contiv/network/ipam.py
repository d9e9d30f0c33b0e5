"""Which address is whose: arithmetic on the configured subnets by node ID, and the pool of a node's pod addresses.

Node ``n`` of a pool with ``2**b`` shares owns share ``n`` (``2**b`` itself wraps to share 0), as in the original.
In a node's pod subnet the first host is the gateway, the last the NAT loopback; neither is ever a pod's.
``PodPool`` hands out the rest in rounds, so that an address just freed is the last one to be used again: caches of
neighbours and connections elsewhere then have time to forget it. Pure: no I/O, no clock.
"""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.config import Config, node_capacity, subnets
from contiv.errors import ConfigError, NetworkError
from contiv.model.ip import Address, Network

GATEWAY_INDEX: Final = 1
VPP_HOST_VPP_INDEX: Final = 1
VPP_HOST_LINUX_INDEX: Final = 2


class NodeAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """All that follows from a node's ID. Interface addresses keep the prefix length of their subnet."""

    node_id: int
    pod_subnet: Network
    pod_gateway: Address
    nat_loopback: Address
    host_subnet: Network
    host_vpp: Network
    host_linux: Network
    uplink: Network
    vxlan: Network


class ClusterSubnets(msgspec.Struct, frozen=True, kw_only=True):
    """The subnets of the whole cluster, parsed once."""

    pods: Network
    hosts: Network
    services: Network
    interconnect: Network
    vxlan: Network
    pod_share_length: int
    host_share_length: int
    node_id_max: int
    node_id_limit: str

    @classmethod
    def of(cls, config: Config) -> ClusterSubnets:
        """The subnets that a checked configuration describes."""
        parsed = subnets(config.ipam_config)
        capacity, limit = node_capacity(config)
        return cls(
            pods=parsed["ipamConfig.podSubnetCIDR"],
            hosts=parsed["ipamConfig.vppHostSubnetCIDR"],
            services=parsed["ipamConfig.serviceCIDR"],
            interconnect=parsed["ipamConfig.nodeInterconnectCIDR"],
            vxlan=parsed["ipamConfig.vxlanCIDR"],
            pod_share_length=config.ipam_config.pod_subnet_one_node_prefix_len,
            host_share_length=config.ipam_config.vpp_host_subnet_one_node_prefix_len,
            node_id_max=capacity,
            node_id_limit=limit,
        )

    def node(self, node_id: int) -> NodeAddresses:
        """The addresses of node ``node_id``; ConfigError when the subnets cannot hold it."""
        if not 1 <= node_id <= self.node_id_max:
            raise ConfigError(
                self.node_id_limit,
                node_id,
                f"node IDs end at {self.node_id_max}",
                remedy="choose a wider network or a longer one-node prefix",
            )
        pod_subnet = _share(self.pods, node_id, self.pod_share_length)
        host_subnet = _share(self.hosts, node_id, self.host_share_length)
        return NodeAddresses(
            node_id=node_id,
            pod_subnet=pod_subnet,
            pod_gateway=pod_subnet.host(GATEWAY_INDEX),
            nat_loopback=pod_subnet.host(pod_subnet.size - 2),
            host_subnet=host_subnet,
            host_vpp=host_subnet.with_host(VPP_HOST_VPP_INDEX),
            host_linux=host_subnet.with_host(VPP_HOST_LINUX_INDEX),
            uplink=self.interconnect.with_host(node_id),
            vxlan=self.vxlan.with_host(node_id),
        )


def _share(network: Network, node_id: int, length: int) -> Network:
    shares = 1 << (length - network.length)
    return network.subnet(node_id % shares, length)


class PodPool:
    """The pod addresses of one node. Asking twice for one owner (``state.owner_of``) gives the same address."""

    def __init__(self, subnet: Network) -> None:
        self.subnet = subnet
        self._owner_of: dict[int, str] = {}
        self._index_of: dict[str, int] = {}
        self._last = GATEWAY_INDEX
        self._first = GATEWAY_INDEX + 1
        self._end = subnet.size - 2  # the NAT loopback; behind it stands the broadcast address

    @property
    def capacity(self) -> int:
        """How many pods the subnet can address."""
        return self._end - self._first

    def __len__(self) -> int:
        return len(self._owner_of)

    def allocations(self) -> dict[Address, str]:
        """The addresses in use and their owners, in order of address."""
        return {self.subnet.host(index): self._owner_of[index] for index in sorted(self._owner_of)}

    def allocate(self, owner: str) -> Address:
        """An address for ``owner``: the one it has, else the next free after the last one given."""
        if owner in self._index_of:
            return self.subnet.host(self._index_of[owner])
        if len(self._owner_of) >= self.capacity:
            raise NetworkError(
                f"pod subnet {self.subnet} has no free address: all {self.capacity} are in use; "
                "delete pods or widen ipamConfig.podSubnetOneNodePrefixLen"
            )
        span = self._end - self._first
        start = self._last + 1 - self._first
        index = next(
            candidate
            for offset in range(span)
            if (candidate := self._first + (start + offset) % span) not in self._owner_of
        )
        self._take(index, owner)
        self._last = index
        return self.subnet.host(index)

    def claim(self, address: Address, owner: str) -> None:
        """Mark ``address`` as ``owner``'s, as a restart does for the pods that it finds.

        NetworkError when the address is not the pool's to give, or another owner has it.
        """
        index = address.value - self.subnet.network.value
        if address not in self.subnet or not self._first <= index < self._end:
            raise NetworkError(f"address {address} of {owner} is not a pod address of {self.subnet}")
        holder = self._owner_of.get(index)
        if holder not in (None, owner):
            raise NetworkError(f"address {address} of {owner} belongs to {holder}")
        self._take(index, owner)
        self._last = max(self._last, index)

    def emptied(self) -> PodPool:
        """A pool of the same subnet with no owners, whose round goes on: what was just freed stays last in turn."""
        pool = PodPool(self.subnet)
        pool._last = self._last
        return pool

    def release(self, owner: str) -> Address | None:
        """Free the address of ``owner``; None when it has none."""
        index = self._index_of.pop(owner, None)
        if index is None:
            return None
        del self._owner_of[index]
        return self.subnet.host(index)

    def _take(self, index: int, owner: str) -> None:
        self._owner_of[index] = owner
        self._index_of[owner] = index
