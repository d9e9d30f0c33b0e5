"""The sessions that a mapping of NAT44-ED made to one of its backends, and their end.

The API lists all sessions of a backend, whoever made them, in a message each. VPP forwards nothing meanwhile: with
some thousands of them, and an agent that is busy, packets waited for seconds. The debug CLI looks for what is asked
for and answers at once (nat44_ed_cli.c, nat44_show_sessions_command_fn; nat44_ed_format.c, format_snat_session).
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from contiv.model import vpp as model
from contiv.model.ip import Address
from contiv.vpp.descriptors.base import Api, remove
from contiv.vpp.descriptors.nat import MAIN_VRF

NAMES: Final = {6: "TCP", 17: "UDP", 132: "SCTP"}
"""As VPP's CLI has them."""
_CLIENT: Final = re.compile(r"external host (?:o2i )?([\d.]+):(\d+)")


async def end_sessions(api: Api, mapping: model.NatMapping, address: Address, port: int) -> None:
    """End what clients have with the backend at ``address`` and ``port`` by ``mapping``, and nothing else of theirs."""
    shown = str((await api.call("cli_inband", cmd=_question(mapping, address, port))).reply)
    named = [_name(mapping, *client) for client in _CLIENT.findall(shown)]
    await asyncio.gather(*(remove(api, "nat44_del_session", **fields) for fields in named))


def _question(mapping: model.NatMapping, address: Address, port: int) -> str:
    inside = f"filter i2o saddr {address} filter i2o sport {port}"
    outside = f"filter o2i daddr {mapping.address} filter o2i dport {mapping.port}"
    return f"show nat44 sessions {inside} {outside} filter i2o proto {NAMES[mapping.protocol]}"


def _name(mapping: model.NatMapping, client: str, client_port: str) -> dict[str, Any]:
    """A session as VPP is told of it: by what comes in from the client."""
    return {
        "protocol": mapping.protocol, "vrf_id": MAIN_VRF, "flags": 0, "address": client, "port": int(client_port),
        "ext_host_address": str(mapping.address), "ext_host_port": mapping.port,
    }  # fmt: skip
