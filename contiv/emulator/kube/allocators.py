"""What services are given: cluster IPs from the service CIDR and node ports from their range.

Comes in: service records as they are stored and removed (``observe``), wishes of new services. Goes out: free
addresses and ports, in turn, so that what was just released is not handed out again at once. Refuses what is taken
or out of range with the field errors of Kubernetes. As there, the lower band is left to explicit wishes.
"""

from __future__ import annotations

import ipaddress

from contiv.emulator.kube.errors import Cause, Json, wrong
from contiv.emulator.kube.store import Event, Name

NODE_PORT_FIRST, NODE_PORT_LAST = 30000, 32767
_NODE_PORT_STATIC = 86  # KEP-3668: the first min(max(16, range/32), 128) ports are for explicit wishes


class ServiceAllocator:
    """Addresses and node ports in use, with their owners."""

    def __init__(self, service_cidr: str) -> None:
        self.network = ipaddress.ip_network(service_cidr)
        size = self.network.num_addresses
        # KEP-3070: the first min(max(16, size/16), 256) addresses are for explicit wishes.
        self._static = min(max(16, size // 16), 256) if size > 32 else 1
        self._next_ip = self._static
        self._next_port = NODE_PORT_FIRST + _NODE_PORT_STATIC
        self._ips: dict[str, Name] = {}
        self._ports: dict[tuple[int, str], Name] = {}

    @property
    def family(self) -> str:
        return f"IPv{self.network.version}"

    def observe(self, event: Event) -> None:
        """Follow a change of a stored service."""
        if event.previous is not None:
            for ip in service_ips(event.previous.content):
                self._ips.pop(ip, None)
            for port in node_ports(event.previous.content):
                self._ports.pop(port, None)
        if event.type != "DELETED":
            self._ips.update(dict.fromkeys(service_ips(event.record.content), event.record.name))
            self._ports.update(dict.fromkeys(node_ports(event.record.content), event.record.name))

    def allocate_ip(self) -> str | None:
        """The next free address, None when the range is exhausted."""
        last = self.network.num_addresses - (2 if self.network.version == 4 else 1)
        for _ in range(self._static, last + 1):
            candidate = str(self.network[self._next_ip])
            self._next_ip = self._next_ip + 1 if self._next_ip < last else self._static
            if candidate not in self._ips:
                return candidate
        return None

    def claim_ip(self, ip: str, name: Name) -> Cause | None:
        """Whether a service may have the address that it wishes."""
        field = "spec.clusterIPs"
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return wrong("spec.clusterIPs[0]", ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        if address not in self.network:
            why = f"the provided IP ({ip}) is not in the valid range. The range of valid IPs is {self.network}"
            return wrong(field, [ip], f"failed to allocate IP {ip}: {why}")
        if self._ips.get(ip, name) != name:
            return wrong(field, [ip], f"failed to allocate IP {ip}: provided IP is already allocated")
        return None

    def allocate_port(self, protocol: str, *, avoid: set[tuple[int, str]]) -> int | None:
        """The next free node port for a protocol, None when the range is exhausted."""
        for _ in range(NODE_PORT_FIRST, NODE_PORT_LAST + 1):
            candidate = self._next_port
            wrapped = NODE_PORT_FIRST + _NODE_PORT_STATIC
            self._next_port = candidate + 1 if candidate < NODE_PORT_LAST else wrapped
            if (candidate, protocol) not in self._ports and (candidate, protocol) not in avoid:
                return candidate
        return None

    def claim_port(self, port: int, protocol: str, *, name: Name, field: str) -> Cause | None:
        """Whether a service may have the node port that it wishes."""
        if not NODE_PORT_FIRST <= port <= NODE_PORT_LAST:
            why = "provided port is not in the valid range. The range of valid ports is"
            return wrong(field, port, f"{why} {NODE_PORT_FIRST}-{NODE_PORT_LAST}")
        if self._ports.get((port, protocol), name) != name:
            return wrong(field, port, "provided port is already allocated")
        return None


def service_ips(content: Json) -> list[str]:
    return [ip for ip in content["spec"].get("clusterIPs") or () if ip != "None"]


def node_ports(content: Json) -> list[tuple[int, str]]:
    spec = content["spec"]
    ports = [
        (port["nodePort"], port.get("protocol", "TCP")) for port in spec.get("ports") or () if port.get("nodePort")
    ]
    if spec.get("healthCheckNodePort"):
        ports.append((spec["healthCheckNodePort"], "TCP"))
    return ports
