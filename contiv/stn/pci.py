"""A NIC's PCI device passed from the kernel's driver to the one that VPP works with, and back, through sysfs.

``driver_override`` names the driver that may have the device, ``unbind`` takes it from the one that has it, and
``drivers_probe`` lets the kernel look again (Documentation/ABI/testing/sysfs-bus-pci). Each step may be repeated.
``root`` is ``/sys`` save in tests.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from contiv.stn.errors import StnError
from contiv.stn.model import PciDevice

LINK_TIMEOUT_S: Final = 10.0
"""From binding the driver until the link is there: a driver loads firmware meanwhile."""
POLL_S: Final = 0.05


class Bus:
    """The PCI bus as sysfs shows it."""

    def __init__(self, root: Path = Path("/sys")) -> None:
        self._root = root

    def address_of(self, link: str) -> str:
        """The PCI address behind a kernel link; ``""`` for a link that is on no PCI bus (veth, virtual NICs)."""
        device = self._root / "class" / "net" / link / "device"
        if not device.exists():
            return ""
        target = device.resolve()
        # a virtio NIC is a device on its own bus, below the PCI device
        for place in (target, *target.parents):
            if (self._device(place.name) / "driver_override").exists():
                return place.name
        return ""

    def exists(self, address: str) -> bool:
        """Whether there is a device at ``address``."""
        return self._device(address).exists()

    def driver(self, address: str) -> str:
        """The driver that has the device; ``""`` when none has."""
        link = self._device(address) / "driver"
        return link.resolve().name if link.exists() else ""

    def hand_over(self, device: PciDevice) -> None:
        """Give the device to VPP's driver; StnError when that is not loaded or does not take it."""
        self._bind(device.address, device.vpp_driver, override=device.vpp_driver)

    def hand_back(self, device: PciDevice, link: str) -> None:
        """Give the device to the kernel's driver and wait until its link is there."""
        if device.kernel_driver:
            self._bind(device.address, device.kernel_driver, override="")
        self._await_link(link)

    def _bind(self, address: str, driver: str, *, override: str) -> None:
        place = self._device(address)
        if not place.exists():
            raise StnError(f"PCI device {address}: not there; look for it with lspci")
        if not (self._root / "bus" / "pci" / "drivers" / driver).exists():
            raise StnError(f"PCI device {address}: driver {driver} is not loaded; run modprobe {driver}")
        self._write(place / "driver_override", override or "\n")
        if self.driver(address) == driver:
            return
        if self.driver(address):
            self._write(place / "driver" / "unbind", address)
        self._write(self._root / "bus" / "pci" / "drivers_probe", address)
        now = self.driver(address)
        if now != driver:
            raise StnError(f"PCI device {address}: {driver} did not take it, {now or 'no driver'} has it; see dmesg")

    def _await_link(self, link: str) -> None:
        deadline = time.monotonic() + LINK_TIMEOUT_S
        while not (self._root / "class" / "net" / link).exists():
            if time.monotonic() > deadline:
                raise StnError(f"link {link}: not back {LINK_TIMEOUT_S:g} s after its driver took it; see dmesg")
            time.sleep(POLL_S)

    def _write(self, place: Path, text: str) -> None:
        try:
            place.write_text(text)
        except OSError as error:
            raise StnError(f"{place}: {error.strerror}; see dmesg, and run as root") from error

    def _device(self, address: str) -> Path:
        return self._root / "bus" / "pci" / "devices" / address
