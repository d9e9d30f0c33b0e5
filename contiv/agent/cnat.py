"""What CNAT asks of the VPP that runs, and the connections that it translates at a moment.

In: a connection to VPP. ``require`` refuses a VPP that lacks the plugin or has other messages than those that were
read; ``sessions`` lists translated connections in bounded numbers, for VPP stops forwarding while it lists them.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from typing import Any, Final

from contiv.errors import ConfigError, VppError
from contiv.vpp import Vpp
from contiv.vpp.api import builtin_schema
from contiv.vpp.descriptors.cnat import MESSAGES

SESSIONS_MAX: Final = 10_000
"""More are not listed, by either renderer."""
ENTRIES: Final = 2
"""VPP keeps one for each direction."""
IS_RETURN: Final = 0x10
"""``CNAT_SESSION_IS_RETURN`` (plugins/cnat/cnat_session.h)."""
PROTOCOLS: Final = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
ANY: Final = "cnat_get_snat_addresses"
"""A request that changes nothing."""
UNIMPLEMENTED: Final = -9
"""``VNET_API_ERROR_UNIMPLEMENTED`` (vnet/error.h)."""
_COUNT: Final = re.compile(r"(\d+) active elements")


async def require(vpp: Vpp) -> None:
    """ConfigError where VPP has no CNAT as it is known here. The emulator knows all messages and refuses these."""
    known = builtin_schema().messages
    lacks = vpp.check({name: known[name].crc for name in MESSAGES})
    named = ", ".join(lack.name for lack in lacks[:3])
    if not lacks and (await vpp.call(ANY, check=False)).retval == UNIMPLEMENTED:
        named = ANY
    if named:
        raise ConfigError(
            "serviceRenderer",
            "cnat",
            f"VPP {vpp.version} has not the CNAT that this agent knows ({named})",
            remedy="enable cnat_plugin.so of VPP 26.06 in startup.conf, or set serviceRenderer to nat44",
        )


async def sessions(vpp: Vpp) -> list[dict[str, Any]]:
    """Who speaks to whom by which frontend. VppError when there are too many to ask for."""
    told = _COUNT.search((await vpp.call("cli_inband", cmd="show cnat session")).reply)
    if told is not None and int(told[1]) > SESSIONS_MAX * ENTRIES:
        raise VppError(f"CNAT keeps {told[1]} entries of sessions; more than {SESSIONS_MAX * ENTRIES} are not listed")
    pairs: dict[int, dict[bool, Any]] = defaultdict(dict)
    for entry in await vpp.dump("cnat_session"):
        session = entry.session
        pairs[session.ts_index][bool(session.flags & IS_RETURN)] = session.tuple
    return [_session(pair[False], pair[True]) for pair in pairs.values() if len(pair) == ENTRIES and _translates(pair)]


def _translates(pair: dict[bool, Any]) -> bool:
    """Whether the destination is another on the way; otherwise it is the second half of a hairpin."""
    return _end(pair[False], 1) != _end(pair[True], 0)


def _session(there: Any, back: Any) -> dict[str, Any]:
    client, seen = _end(there, 0), _end(back, 1)
    return {
        "protocol": PROTOCOLS.get(int(there.ip_proto), str(int(there.ip_proto))),
        "client": client,
        "frontend": _end(there, 1),
        "backend": _end(back, 0),
        "seenAs": "" if seen == client else seen,
    }


def _end(tuple_: Any, side: int) -> str:
    """One side of a connection: 0 its source, 1 its destination.

    VPP turns the ports of a session, which are in network order already, once more (``cnat_5tuple_encode``).
    """
    address = tuple_.addr[side]
    port = int.from_bytes(int(tuple_.port[side]).to_bytes(2, "big"), sys.byteorder)
    shown = f"[{address}]" if address.version == 6 else str(address)
    return f"{shown}:{port}"
