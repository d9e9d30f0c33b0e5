"""contiv.vpp.descriptors.interface: what stays behind when the agent dies, and how much is asked of VPP at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from contiv.errors import VppError
from contiv.model import vpp as model
from contiv.vpp.descriptors import Interfaces
from contiv.vpp.descriptors import tap as taps
from contiv.vpp.descriptors.base import RX_MODE_INTERRUPT
from contiv.vpp.descriptors.interface import AT_ONCE_MAX, InterfaceDescriptor
from contiv.vpp.errors import VppDisconnected

INDEX = 7


def a_tap(number: int = 1) -> model.Tap:
    return model.Tap(
        name=f"pod{number}",
        host_if="eth0",
        netns=f"/var/run/netns/p{number}",
        mac="02:ff:00:00:00:01",
        host_mac="02:fe:00:00:00:01",
        mtu=1450,
    )


class OneTap:
    """A VPP with one TAP that hears ``patience`` requests about it and no more."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.state: dict[str, Any] = {}

    def call(self, name: str, /, **fields: Any) -> asyncio.Future[Any]:
        """A request takes effect when it is sent, as on a socket."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.patience == 0:
            answer.set_exception(VppDisconnected("gone"))
            return answer
        self.patience -= 1
        if name == "tap_delete_v2":
            self.state.clear()
        self.state |= {field: value for field, value in fields.items() if field in {"mode", "tag", "mtu"} and value}
        answer.set_result(SimpleNamespace(sw_if_index=INDEX))
        return answer

    async def dump(self, name: str, /, **fields: Any) -> list[Any]:
        return []


@pytest.mark.parametrize("patience", range(1, 5))
async def test_a_tap_with_our_tag_never_lacks_its_interrupts(patience: int) -> None:
    """No dump tells the mode, so a resync could not find out."""
    vpp = OneTap(patience)
    descriptor = InterfaceDescriptor(vpp, Interfaces())
    complete = patience == 4
    try:
        await descriptor.create("vpp/interface/pod1", a_tap())
    except VppError:
        assert not complete
    assert "tag" not in vpp.state or vpp.state["mode"] == RX_MODE_INTERRUPT
    assert ("tag" in vpp.state) == complete


class Slow:
    """A VPP that counts how many requests wait in it."""

    def __init__(self) -> None:
        self.waiting = 0
        self.most = 0

    async def call(self, name: str, /, **fields: Any) -> Any:
        if name not in {"tap_create_v3", "tap_delete_v2"}:
            return None
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        await asyncio.sleep(0)
        self.waiting -= 1
        return SimpleNamespace(sw_if_index=INDEX)

    async def dump(self, name: str, /, **fields: Any) -> list[Any]:
        return []


async def test_many_interfaces_do_not_queue_up_in_vpp() -> None:
    """The last of 110 TAPs would time out before VPP comes to it."""
    vpp = Slow()
    descriptor = InterfaceDescriptor(vpp, Interfaces())
    pods = [a_tap(number) for number in range(110)]
    await asyncio.gather(*(descriptor.create(model.interface_key(pod.name), pod) for pod in pods))
    assert vpp.most == AT_ONCE_MAX
    await asyncio.gather(*(descriptor.delete(model.interface_key(pod.name), pod, INDEX) for pod in pods))
    assert vpp.most == AT_ONCE_MAX


def test_one_name_in_a_namespace_is_claimed_whatever_the_mac() -> None:
    first = a_tap()
    second = model.Tap(
        name="other", host_if=first.host_if, netns=first.netns, mac=first.mac, host_mac="02:fe:00:00:00:02", mtu=1450
    )
    descriptor = InterfaceDescriptor(Slow(), Interfaces())
    assert tuple(descriptor.claims("a", first)) == tuple(descriptor.claims("b", second))
    assert taps.signature(first) != taps.signature(second)
