"""A node without VPP, for the demo's own tests: the kernel routes. ``init`` and ``ADD`` in one file.

``stub_node.py init NUMBER``: give the node its addresses and routes, then sleep; run inside the node's
namespace. As ``contiv-cni``: wire a pod by a veth pair into the namespace that ``stubNode`` of the
configuration names.
"""

import json
import os
import signal
import sys
from pathlib import Path

from contiv.linux import interfaces, links, netns, veths
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers
from contiv.model.ip import Address, Network
from contiv.model.linux import Interface, Route, Veth

NODES = 4


def init(number: int) -> None:
    """Host address on ``vpp1``, uplink address, routes to the other nodes."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with Conversation() as conversation:
        conversation.run([links.create_bridge("vpp1", mtu=1500)])
    host = Interface("vpp1", "vpp1", addresses=(Network.parse(f"172.30.{number}.2/32", strict=False),))
    interfaces.configure("linux/interface/vpp1", host)
    routes = tuple(
        Route(Network.parse(subnet), gateway=Address.parse(f"192.168.16.{other}"))
        for other in range(1, NODES + 1)
        if other != number
        for subnet in (f"10.1.{other}.0/24", f"172.30.{other}.2/32")
    )
    address = Network.parse(f"192.168.16.{number}/24", strict=False)
    uplink = Interface("uplink", "uplink", addresses=(address,), routes=routes)
    interfaces.configure("linux/interface/uplink", uplink)
    print("ready", flush=True)
    signal.pause()


def add(node: str, number: int, here: Path) -> dict[str, object]:
    """The pod's end and the node's end of a veth pair, a host route on either."""
    name = "p" + os.environ["CNI_CONTAINERID"][:8]
    (here / name).touch()
    address = f"10.1.{number}.{len(list(here.glob('p????????'))) + 1}/32"
    pod = os.environ["CNI_NETNS"]
    workers = Workers(1)
    workers._run(node, lambda: veths.create(f"linux/veth/{name}", Veth(name, "eth0", peer_netns=pod)))
    near = Interface(name, name, routes=(Route(Network.parse(address)),))
    workers._run(node, lambda: interfaces.configure(f"linux/interface/{name}", near))
    gateway = Address.parse(f"172.30.{number}.2")
    routes = (Route(gateway.host_network), Route(Network.parse("0.0.0.0/0"), gateway=gateway))
    far = Interface("eth0", "eth0", netns=pod, addresses=(Network.parse(address),), routes=routes)
    workers._run(pod, lambda: interfaces.configure("linux/interface/eth0", far))
    workers.close()
    return {"cniVersion": "1.1.0", "ips": [{"address": address}]}


def plugin() -> None:
    """The CNI side."""
    config = json.load(sys.stdin)
    socket = Path(config["agentSocket"])
    number = int(socket.parents[1].name.rpartition("-")[2])
    (node,) = (netns.path_of(name) for name in netns.names() if name == os.environ["STUB_TAG"] + f"-node-{number}")
    if os.environ["CNI_COMMAND"] == "ADD":
        print(json.dumps(add(node, number, socket.parent)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["init"]:
        init(int(sys.argv[2]))
    else:
        plugin()
