"""VPP: client over its binary API, descriptors of what stands in it, its life as a process.

``async with contiv.vpp.connect(socket) as vpp: await vpp.call("ip_route_add_del", ...)``
"""

from contiv.vpp.client import Vpp, connect
from contiv.vpp.errors import (
    VppApiError,
    VppBusy,
    VppDisconnected,
    VppError,
    VppIncompatible,
    VppTimeout,
)
from contiv.vpp.events import Events

__all__ = [
    "Events",
    "Vpp",
    "VppApiError",
    "VppBusy",
    "VppDisconnected",
    "VppError",
    "VppIncompatible",
    "VppTimeout",
    "connect",
]
