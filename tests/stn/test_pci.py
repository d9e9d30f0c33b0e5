"""contiv.stn.pci on a sysfs of plain files, whose writes do what the kernel's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from contiv.stn.errors import StnError
from contiv.stn.model import PciDevice
from contiv.stn.pci import Bus

ADDRESS = "0000:00:08.0"
KERNEL, FOR_VPP = "virtio-pci", "uio_pci_generic"
DEVICE = PciDevice(address=ADDRESS, kernel_driver=KERNEL, vpp_driver=FOR_VPP)


class FakeBus(Bus):
    """The files below ``root`` and a kernel that reacts to what is written into them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        self.device = root / "bus/pci/devices" / ADDRESS
        self.written: list[str] = []
        self.stubborn = False
        self.override = ""
        (self.device / "virtio0").mkdir(parents=True)
        (self.device / "driver_override").write_text("(null)\n")
        for driver in (KERNEL, FOR_VPP):
            (root / "bus/pci/drivers" / driver).mkdir(parents=True)
        (root / "class/net").mkdir(parents=True)
        self._take(KERNEL)

    def _take(self, driver: str) -> None:
        (self.device / "driver").symlink_to(self.root / "bus/pci/drivers" / driver)
        if driver == KERNEL:
            link = self.root / "class/net/eth0"
            link.mkdir()
            (link / "device").symlink_to(self.device / "virtio0")

    def _write(self, place: Path, text: str) -> None:
        self.written.append(f"{place.relative_to(self.root)} {text.strip()}")
        if place.name == "driver_override":
            self.override = text.strip()
        elif place.name == "unbind":
            (self.device / "driver").unlink()
            link = self.root / "class/net/eth0"
            if link.exists():
                (link / "device").unlink()
                link.rmdir()
        elif place.name == "drivers_probe" and not self.stubborn:
            self._take(self.override or KERNEL)


@pytest.fixture
def bus(tmp_path: Path) -> FakeBus:
    return FakeBus(tmp_path)


def test_a_link_s_device_is_found_through_virtio_s_own_bus(bus: FakeBus) -> None:
    assert bus.address_of("eth0") == ADDRESS
    assert bus.driver(ADDRESS) == KERNEL
    (bus.root / "class/net/veth0").mkdir()
    assert bus.address_of("veth0") == ""
    assert bus.exists(ADDRESS)
    assert not bus.exists("0000:00:09.0")


def test_a_device_goes_to_vpp_s_driver_and_back_with_its_link(bus: FakeBus) -> None:
    bus.hand_over(DEVICE)
    assert bus.driver(ADDRESS) == FOR_VPP
    assert not (bus.root / "class/net/eth0").exists()
    bus.hand_back(DEVICE, "eth0")
    assert bus.driver(ADDRESS) == KERNEL
    assert (bus.root / "class/net/eth0").exists()
    assert bus.override == ""


def test_each_direction_may_be_repeated(bus: FakeBus) -> None:
    bus.hand_over(DEVICE)
    bus.hand_over(DEVICE)
    assert bus.driver(ADDRESS) == FOR_VPP
    bus.hand_back(DEVICE, "eth0")
    bus.hand_back(DEVICE, "eth0")
    assert bus.driver(ADDRESS) == KERNEL


@pytest.mark.parametrize("steps", [1, 2])
def test_a_hand_over_that_was_interrupted_is_finished_or_undone(bus: FakeBus, steps: int) -> None:
    """After the override, and after the unbinding."""
    bus._write(bus.device / "driver_override", FOR_VPP)
    if steps == 2:
        bus._write(bus.device / "driver" / "unbind", ADDRESS)
    bus.hand_back(DEVICE, "eth0")
    assert bus.driver(ADDRESS) == KERNEL
    bus.hand_over(DEVICE)
    assert bus.driver(ADDRESS) == FOR_VPP


def test_what_cannot_be_is_named(bus: FakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StnError, match="not there; look for it with lspci"):
        bus.hand_over(PciDevice(address="0000:00:09.0", kernel_driver="", vpp_driver=FOR_VPP))
    with pytest.raises(StnError, match="driver vfio-pci is not loaded; run modprobe vfio-pci"):
        bus.hand_over(PciDevice(address=ADDRESS, kernel_driver=KERNEL, vpp_driver="vfio-pci"))
    bus.stubborn = True
    with pytest.raises(StnError, match=f"{FOR_VPP} did not take it, no driver has it"):
        bus.hand_over(DEVICE)
    monkeypatch.setattr("contiv.stn.pci.LINK_TIMEOUT_S", 0.1)
    bus.stubborn = False
    bus.hand_over(DEVICE)
    monkeypatch.setattr(
        bus, "_take", lambda driver: (bus.device / "driver").symlink_to(bus.root / "bus/pci/drivers" / driver)
    )
    with pytest.raises(StnError, match="link eth0: not back"):
        bus.hand_back(DEVICE, "eth0")
