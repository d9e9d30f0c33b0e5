"""Short ways to services, slices and the node that looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from contiv.model import kube
from contiv.model.ip import Address, Network
from contiv.service.frontends import NodeView
from contiv.service.render_nat44 import Nat44Renderer
from contiv.service.renderer import Options, Renderer
from contiv.service.state import ServiceState

NODE: Final = NodeView(
    name="node-1",
    uplink=Address.parse("192.168.16.1"),
    interfaces=("vpp2", "vxlan-bvi"),
    snat_interface="uplink",
    own_addresses=tuple(map(Address.parse, ("192.168.16.1", "172.30.1.2", "172.30.1.1", "192.168.30.1"))),
    host=Address.parse("172.30.1.2"),
    hidden=Address.parse("10.1.1.254"),
    pods=Network.parse("10.1.0.0/16"),
    own_pods=Network.parse("10.1.1.0/24"),
    hosts=Network.parse("172.30.0.0/16"),
    services=Network.parse("10.96.0.0/12"),
    vxlan=Network.parse("192.168.30.0/24"),
    interconnect=Network.parse("192.168.16.0/24"),
)


def port(number: int = 80, name: str = "", *, protocol: str = "TCP", node_port: int = 0) -> kube.ServicePort:
    """A port of a service."""
    return kube.ServicePort(name=name, protocol=protocol, port=number, target_port=8080, node_port=node_port)


def service(name: str = "web", ip: str = "10.96.0.10", *, ports: Any = (), **fields: Any) -> kube.Service:
    """A service in namespace default with a cluster IP."""
    defaults: dict[str, Any] = {
        "type": "ClusterIP",
        "internal_traffic_policy": "Cluster",
        "external_traffic_policy": "Cluster",
        "session_affinity": "None",
        "cluster_ips": (ip,),
    }
    return kube.Service(namespace="default", name=name, ports=tuple(ports) or (port(),), **(defaults | fields))


def endpoint(address: str, *, node: str = "", **fields: Any) -> kube.Endpoint:
    """An endpoint, ready if nothing else is said."""
    return kube.Endpoint(address=address, node_name=node, **fields)


def slice_(*endpoints: kube.Endpoint, of: str = "web", name: str = "", **fields: Any) -> kube.EndpointSlice:
    """A slice of a service's endpoints on TCP 8080."""
    ports = fields.pop("ports", (kube.EndpointPort(name="", protocol="TCP", port=8080),))
    return kube.EndpointSlice(
        namespace="default",
        name=name or f"{of}-1",
        service_name=of,
        address_type=fields.pop("address_type", "IPv4"),
        ports=tuple(ports),
        endpoints=endpoints,
        **fields,
    )


def key_of(each: kube.EndpointSlice) -> str:
    """The slice's key in etcd."""
    return kube.ENDPOINT_SLICES.key_of(each)


def state(
    *objects: kube.Service | kube.EndpointSlice,
    node: NodeView = NODE,
    options: Options | None = None,
    renderer: Callable[[Options], Renderer] = Nat44Renderer,
) -> tuple[ServiceState, dict[str, Any]]:
    """A state that holds the objects, and what it wants of VPP."""
    made = ServiceState(node, renderer(options or Options()))
    desired = made.replace(
        [each for each in objects if isinstance(each, kube.Service)],
        {key_of(each): each for each in objects if isinstance(each, kube.EndpointSlice)},
        node,
        node_object=None,
        interfaces=(),
    )
    return made, dict(desired)
