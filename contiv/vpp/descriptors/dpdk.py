"""NICs that VPP drives itself through DPDK (VPP: src/plugins/dpdk). startup.conf gives VPP the PCI device and its name;
the API can neither make nor remove one, so a NIC is found, and let go by switching it off."""

from __future__ import annotations

from typing import Any, Final

from contiv.errors import VppError
from contiv.model.vpp import Dpdk
from contiv.vpp.descriptors.base import NO_INDEX, OWNER, Api, remove

DEVICE_TYPE: Final = "dpdk"


def claims(value: Dpdk) -> tuple[str, ...]:
    """VPP's name of it, from startup.conf."""
    return (f"dpdk:{value.name}",)


async def create(api: Api, value: Dpdk) -> int:
    """The NIC's ``sw_if_index``; VppError when VPP did not start with it."""
    for entry in await _devices(api):
        if entry.interface_name == value.name:
            return int(entry.sw_if_index)
    raise VppError(
        f"interface {value.name} is not in VPP: it must start with its PCI address; see its log for the driver"
    )


async def delete(api: Api, value: Dpdk, index: int) -> None:
    """Take our mark off it; what is left is a NIC that is down."""
    await remove(api, "sw_interface_tag_add_del", is_add=False, sw_if_index=index, tag=OWNER + value.name)


async def dump(api: Api) -> dict[int, Dpdk]:
    """All NICs of DPDK by ``sw_if_index``; the MTU comes from the common dump."""
    return {entry.sw_if_index: Dpdk(name=entry.interface_name, mtu=0) for entry in await _devices(api)}


async def _devices(api: Api) -> list[Any]:
    details = await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
    return [entry for entry in details if entry.interface_dev_type == DEVICE_TYPE]
