"""virtio NICs on PCI, driven by VPP's own driver (VPP: src/vnet/devices/virtio/pci.c): made and removed while VPP runs.

The device must be bound to a driver that lets user space have it (uio_pci_generic, vfio-pci); its MAC address is its
own, and so is what it can offload.
"""

from __future__ import annotations

from typing import Any, Final

from contiv.errors import VppError
from contiv.model.vpp import VirtioPci
from contiv.vpp.descriptors.base import NO_INDEX, Api, remove
from contiv.vpp.errors import VppApiError

FLAG_CHECKSUM: Final = 2
ALL_FEATURES: Final = 0xFFFFFFFFFFFFFFFF
"""Whatever driver and device both know."""
DEVICE_TYPE: Final = "virtio"
NAME_PREFIX: Final = "virtio-"
"""TAPs are of the same device type and are called ``tap<n>``."""


def claims(value: VirtioPci) -> tuple[str, ...]:
    """One device on the bus."""
    return (f"virtio:{value.pci_address}",)


async def create(api: Api, value: VirtioPci) -> int:
    """Have VPP drive the device; returns its ``sw_if_index``. VppError when VPP cannot."""
    try:
        reply = await api.call(
            "virtio_pci_create_v2",
            pci_addr=_to_wire(value.pci_address),
            use_random_mac=True,  # which means: the device's own
            mac_address="00:00:00:00:00:00",
            virtio_flags=FLAG_CHECKSUM,
            features=ALL_FEATURES,
        )
    except VppApiError as error:
        raise VppError(
            f"NIC {value.name} at {value.pci_address}: VPP does not get it ({error}); bind it to uio_pci_generic or "
            "vfio-pci, and see VPP's log"
        ) from error
    return int(reply.sw_if_index)


async def delete(api: Api, value: VirtioPci, index: int) -> None:
    """Let the device go."""
    await remove(api, "virtio_pci_delete", sw_if_index=index)


async def dump(api: Api) -> dict[int, VirtioPci]:
    """All virtio NICs by ``sw_if_index``; the MTU comes from the common dump."""
    common = await api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
    if not any(e.interface_dev_type == DEVICE_TYPE and e.interface_name.startswith(NAME_PREFIX) for e in common):
        return {}
    details = await api.dump("sw_interface_virtio_pci")
    return {entry.sw_if_index: VirtioPci(name="", pci_address=_from_wire(entry.pci_addr), mtu=0) for entry in details}


def _to_wire(address: str) -> dict[str, int]:
    domain, bus, rest = address.split(":")
    slot, _, function = rest.partition(".")
    return {"domain": int(domain, 16), "bus": int(bus, 16), "slot": int(slot, 16), "function": int(function, 16)}


def _from_wire(address: Any) -> str:
    return f"{address.domain:04x}:{address.bus:02x}:{address.slot:02x}.{address.function:x}"
