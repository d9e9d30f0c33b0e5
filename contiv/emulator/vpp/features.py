"""Feature arcs: which optional nodes a packet visits on an interface, in the order that VPP keeps.

The order is declared once, here (the ``runs_before``/``runs_after`` of vnet/ip/ip4_forward.c, plugins/acl and
plugins/nat/nat44-ed). Enabling a feature on an interface puts its node at its place in the interface's arc. A feature
node returns the node that takes the packet over, ``CONTINUE`` to let the arc go on, or None when the packet is done.
On input ACL comes before NAT; on output NAT comes before ACL, so an output ACL sees translated sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet

IP4_UNICAST: Final = (
    "ip4-dhcp-client-detect",
    "ip4-sv-reassembly-feature",
    "acl-plugin-in-ip4-fa",
    "nat-pre-in2out",
    "nat-pre-out2in",
    "nat44-ed-classify",
    "ip4-inacl",
    "ip4-vxlan-bypass",
    "ip4-not-enabled",
)
"""Between ip4-input and ip4-lookup."""

IP4_OUTPUT: Final = (
    "ip4-sv-reassembly-output-feature",
    "nat-pre-in2out-output",
    "acl-plugin-out-ip4-fa",
)
"""Between ip4-rewrite and interface-output."""

IP6_UNICAST: Final = ("acl-plugin-in-ip6-fa", "ip6-not-enabled")
IP6_OUTPUT: Final = ("acl-plugin-out-ip6-fa",)

_SLOTS: Final = {
    "ip4-unicast": ("input_arc4", IP4_UNICAST),
    "ip4-output": ("output_arc4", IP4_OUTPUT),
    "ip6-unicast": ("input_arc6", IP6_UNICAST),
    "ip6-output": ("output_arc6", IP6_OUTPUT),
}
ARCS: Final = frozenset(_SLOTS)
"""The arcs that there are."""


def CONTINUE(packet: Packet, /) -> Node | None:
    """Returned by a feature that has nothing (more) to do; the arc goes on with its next feature. Never called."""
    raise AssertionError("CONTINUE stands for the arc's next feature")


class FeatureArcs:
    """Which features are enabled where."""

    def __init__(self) -> None:
        self._enabled: dict[tuple[str, int], dict[str, Node]] = {}
        self._declared: dict[tuple[str, str], Node] = {}

    def declare(self, arc: str, *, feature: str, node: Node) -> None:
        """Let a feature be enabled by its name alone."""
        self._declared[arc, feature] = node

    def declared(self, arc: str, feature: str) -> Node | None:
        """The node of a feature that was declared, or None."""
        return self._declared.get((arc, feature))

    def enable(self, interface: Interface, arc: str, *, feature: str, node: Node) -> None:
        """Put ``node`` on the interface's arc under the name ``feature``."""
        self._enabled.setdefault((arc, interface.index), {})[feature] = node
        self._rebuild(interface, arc)

    def disable(self, interface: Interface, arc: str, *, feature: str) -> None:
        """Take ``feature`` off the interface's arc; nothing happens when it was not there."""
        self._enabled.get((arc, interface.index), {}).pop(feature, None)
        self._rebuild(interface, arc)

    def forget(self, interface: Interface) -> None:
        """An interface is gone."""
        for arc in _SLOTS:
            self._enabled.pop((arc, interface.index), None)

    def enabled(self, interface: Interface, arc: str) -> tuple[str, ...]:
        """Names of the features on an arc, in order."""
        present = self._enabled.get((arc, interface.index), {})
        return tuple(name for name in _SLOTS[arc][1] if name in present)

    def _rebuild(self, interface: Interface, arc: str) -> None:
        slot, order = _SLOTS[arc]
        present = self._enabled.get((arc, interface.index), {})
        setattr(interface, slot, tuple(present[name] for name in order if name in present))
