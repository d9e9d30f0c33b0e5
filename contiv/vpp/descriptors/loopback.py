"""Loopback interfaces: addresses that no NIC carries, and BVIs (VPP: src/vnet/ethernet/interface.c)."""

from __future__ import annotations

import re
from typing import Final

from contiv.model.vpp import Loopback
from contiv.vpp.descriptors.base import NO_INDEX, Api, remove

_NAME: Final = re.compile(r"loop(\d+)")


def claims(value: Loopback) -> tuple[str, ...]:
    """An instance number exists once."""
    return (f"loopback:{value.instance}",)


async def create(api: Api, value: Loopback) -> int:
    """Make ``loop<instance>``; returns its ``sw_if_index``."""
    reply = await api.call(
        "create_loopback_instance", mac_address=value.mac, is_specified=True, user_instance=value.instance
    )
    return int(reply.sw_if_index)


async def delete(api: Api, value: Loopback, index: int) -> None:
    """Remove the loopback."""
    await remove(api, "delete_loopback", sw_if_index=index)


async def dump(api: Api) -> dict[int, Loopback]:
    """All loopbacks by ``sw_if_index``: they have no dump of their own, their names tell them."""
    found = {}
    for entry in await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=True, name_filter="loop"):
        match = _NAME.fullmatch(entry.interface_name)
        if match:
            found[entry.sw_if_index] = Loopback(name="", instance=int(match[1]), mac="")
    return found
