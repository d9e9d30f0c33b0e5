"""af_xdp interfaces: VPP on a kernel link by AF_XDP sockets (VPP: src/plugins/af_xdp, where it is installed).

The kernel copies frames straight into VPP's buffers and out of them, or, where the NIC's driver can, copies nothing.
The plugin has no dump: VPP's name of an interface is the link's with a number behind it, ``eth1/0``.

What to know of the plugin: it polls unless told to be woken, and gives the interface a random MAC address. What is
larger than a buffer it does not send, but submits a stale descriptor of its ring in its place (output.c), after which
nothing is right any more; ``contiv.network`` sees to it that VPP holds nothing of the kind. A second interface on the
same link is refused, and takes the first one's XDP program along (device.c, af_xdp_delete_if); hence ``claims``.
"""

from __future__ import annotations

import asyncio
from typing import Final

from contiv.errors import VppError
from contiv.model.vpp import AF_XDP_MTU_MAX, AfXdp
from contiv.vpp.descriptors.base import NO_INDEX, Api, lacks, remove
from contiv.vpp.errors import VppApiError

CREATE: Final = "af_xdp_create_v3"
DEVICE_TYPE: Final = "AF_XDP interface"
ALL_QUEUES: Final = 0xFFFF
"""What a NIC puts into a queue without a socket goes to the kernel's stack."""
MODE_AUTO: Final = 0
"""Without copying where the NIC's driver can."""
FLAG_NO_SYSCALL_LOCK: Final = 1
"""Else a VPP with workers cannot be woken. The lock is for kernels before 5.6."""
REFUSED: Final = "SYSCALL_ERROR_2"
"""The kernel's refusal of a socket, whatever its reason."""
PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4)
RING_SIZE: Final = 1024
"""Frames, each way and queue; a power of two. VPP's own 512 is two bursts."""


def claims(value: AfXdp) -> tuple[str, ...]:
    """The queues of a kernel link can be opened once."""
    return (f"af_xdp:{value.host_if}",)


async def create(api: Api, value: AfXdp) -> int:
    """Open the link, which somebody else sets up; returns its ``sw_if_index``. VppError when VPP or the link cannot."""
    nic = f"NIC {value.name} on link {value.host_if}"
    if lacks(api, CREATE):
        raise VppError(
            f"{nic}: VPP runs without its af_xdp plugin; start it by contiv init with linkDriver: af_xdp, or set "
            "linkDriver: af_packet"
        )
    try:
        index = await _open(api, value.host_if)
    except VppApiError as error:
        raise VppError(
            f"{nic}: VPP cannot open it by AF_XDP ({error}); the link must be there, of a driver that knows XDP, "
            f"with an MTU of at most {AF_XDP_MTU_MAX}, and in nobody else's hands; else set linkDriver: af_packet"
        ) from error
    try:
        await api.call("sw_interface_set_mac_address", sw_if_index=index, mac_address=value.mac)
    except VppError:
        await delete(api, value, index)
        raise
    return index


async def _open(api: Api, link: str) -> int:
    """The interface's ``sw_if_index``. The kernel lets go of queues a moment after the sockets on them were closed."""
    for pause_s in PAUSES_S:
        try:
            return await _try(api, link)
        except VppApiError as error:
            if error.name != REFUSED:
                raise
        await asyncio.sleep(pause_s)
    return await _try(api, link)


async def _try(api: Api, link: str) -> int:
    reply = await api.call(
        CREATE,
        host_if=link,
        name="",  # which makes it the link's: all that tells the link later
        rxq_num=ALL_QUEUES,
        rxq_size=RING_SIZE,
        txq_size=RING_SIZE,
        mode=MODE_AUTO,
        flags=FLAG_NO_SYSCALL_LOCK,
        prog="",
        netns="",
    )
    return int(reply.sw_if_index)


async def delete(api: Api, value: AfXdp, index: int) -> None:
    """Close the link; its XDP program goes."""
    await remove(api, "af_xdp_delete", sw_if_index=index)


async def dump(api: Api) -> dict[int, AfXdp]:
    """All af_xdp interfaces by ``sw_if_index``, ours and others'; MAC and MTU come from the common dump."""
    details = await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
    return {
        entry.sw_if_index: AfXdp(name="", host_if=entry.interface_name.rpartition("/")[0], mac="", mtu=0)
        for entry in details
        if entry.interface_dev_type == DEVICE_TYPE
    }
