"""The wire between the nodes: a Linux bridge in a namespace of its own, and a cable to each node.

In: the run directory's namespace names. Out: an interface ``uplink`` in each node's namespace, up, without an
address and without IPv6: it is the NIC that the node's data plane takes.
"""

from __future__ import annotations

import os
from typing import Final

from contiv.linux import ipv6, links, netns, offloads
from contiv.linux.errors import LinkMissing
from contiv.linux.netlink import Conversation
from contiv.linux.netns import Workers

BRIDGE: Final = "switch"
UPLINK: Final = "uplink"
MTU: Final = 1500


class Wire:
    """The switch. Its namespace's removal takes it and all cables away."""

    def __init__(self, workers: Workers, namespace: str) -> None:
        self._workers = workers
        self._namespace = namespace

    async def build(self) -> None:
        """Make the namespace and the switch."""
        path = netns.create(self._namespace)
        await self._workers.inside(path, _switch)

    async def plug(self, number: int, node_netns: str, *, finished: bool = False) -> None:
        """A cable from the switch to ``uplink`` in the node's namespace; ``number`` names the port.

        ``finished``: frames come with their checksums, as from a real wire. A veth pair leaves them out, and XDP, which
        sees frames alone, is not told.
        """
        port = f"port{number}"
        await self._workers.inside(netns.path_of(self._namespace), lambda: _cable(port, node_netns, finished=finished))
        await self._workers.inside(node_netns, _far_end)


def _switch() -> None:
    with Conversation() as conversation:
        conversation.run([links.create_bridge(BRIDGE, mtu=MTU)])
        ipv6.set_enabled(BRIDGE, False)
        conversation.run([links.set_up(_index(conversation, BRIDGE), True, name=BRIDGE)])


def _cable(port: str, node_netns: str, *, finished: bool) -> None:
    target = netns.open_namespace(node_netns)
    try:
        with Conversation() as conversation:
            conversation.run([links.create_veth(port, UPLINK, peer_netns=target, mtu=MTU)])
            ipv6.set_enabled(port, False)
            if finished:
                offloads.apply(port, (("tx-checksum", False),))
            index = _index(conversation, port)
            bridge = _index(conversation, BRIDGE)
            conversation.run([links.set_master(index, bridge, name=port), links.set_up(index, True, name=port)])
    finally:
        os.close(target)


def _far_end() -> None:
    with Conversation() as conversation:
        ipv6.set_enabled(UPLINK, False)
        conversation.run(
            [
                links.set_up(_index(conversation, UPLINK), True, name=UPLINK),
                links.set_up(links.LOOPBACK, True, name="lo"),
            ]
        )


def _index(conversation: Conversation, name: str) -> int:
    link = links.find(conversation, name)
    if link is None:
        raise LinkMissing(name, "the wire's namespace")
    return link.index
