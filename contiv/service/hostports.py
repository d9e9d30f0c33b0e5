"""Host ports of this node's pods, as services with one endpoint: VPP answers them on the node's own addresses. Pure.

In: a ``Pod``. Out: a service whose claims are the pod's host ports and a slice with the pod in it, or None for a pod
that has none here. The pod sees the client's address, ready or not (core/v1 ContainerPort.hostPort). Pods on the host's
own network need nothing: their ports are the host's.
"""

from __future__ import annotations

from typing import Final

from contiv.model import kube

HOST_PORT: Final = "HostPort"
ANY_ADDRESS: Final = frozenset({"", "0.0.0.0", "::"})
"""What a hostIP says that means no address in particular."""


class PodPorts(kube.Service, frozen=True, kw_only=True):
    """``address`` is the pod's. ``host_ips``: by port, the node's only address that answers it; "" for all of them."""

    address: str
    host_ips: tuple[str, ...]


def pod_ports(pod: kube.Pod, node: str) -> tuple[PodPorts, kube.EndpointSlice] | None:
    """The pod's host ports on ``node``, None when there are none to answer."""
    ports = tuple(port for port in pod.ports if port.host_port)
    address = next((text for text in pod.pod_ips if ":" not in text), "")
    if pod.node_name != node or pod.host_network or pod.finished or not ports or not address:
        return None
    service = PodPorts(
        namespace=pod.namespace,
        name=pod.name,
        type=HOST_PORT,
        ports=tuple(
            kube.ServicePort(name=str(index), protocol=port.protocol, port=port.host_port, target_port=port.port)
            for index, port in enumerate(ports)
        ),
        address=address,
        host_ips=tuple("" if port.host_ip in ANY_ADDRESS else port.host_ip for port in ports),
        internal_traffic_policy="Local",
        external_traffic_policy="Local",
        session_affinity="None",
        publish_not_ready_addresses=True,
    )
    slice_ = kube.EndpointSlice(
        namespace=pod.namespace,
        name=pod.name,
        address_type="IPv4",
        ports=tuple(
            kube.EndpointPort(name=str(index), protocol=port.protocol, port=port.port)
            for index, port in enumerate(ports)
        ),
        endpoints=(kube.Endpoint(address=address, node_name=node),),
    )
    return service, slice_
