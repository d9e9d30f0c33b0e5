"""contiv/scheduler/registry.py: who owns a key."""

from __future__ import annotations

import pytest

from contiv.errors import SchedulerError
from contiv.scheduler.errors import UnknownKeyError
from contiv.scheduler.registry import Registry
from tests.scheduler.southbound import FakeDescriptor, Southbound


def descriptor(name, **options):
    return FakeDescriptor(Southbound(), name, **options)


def test_longest_prefix_owns_the_key():
    registry = Registry([descriptor("vpp"), descriptor("vpp/route"), descriptor("vpp/interface")])
    assert registry.find("vpp/route/0/10.1.1.2/32").name == "vpp/route"
    assert registry.find("vpp/routes/1").name == "vpp"


def test_owner_of_a_key_does_not_depend_on_what_was_asked_before():
    registry = Registry([descriptor(name) for name in ("vpp", "vpp/route", "vpp/route/special", "linux/veth")])
    owners = {
        "vpp/x": "vpp",
        "vpp/route/1": "vpp/route",
        "vpp/route/special/1": "vpp/route/special",
        "linux/veth/1": "linux/veth",
    }
    for before in owners:
        for key, owner in owners.items():
            registry.find(before)
            assert registry.find(key).name == owner
    registry.find("vpp/route/special/1")
    with pytest.raises(UnknownKeyError):
        registry.find("vpq/route")


@pytest.mark.parametrize("key", ["linux/veth/1", "vpp/interfaces", "vpp", ""])
def test_key_without_owner_is_refused(key):
    with pytest.raises(UnknownKeyError, match="no descriptor"):
        Registry([descriptor("vpp/interface")]).find(key)


def test_name_or_prefix_taken_twice_is_refused():
    with pytest.raises(SchedulerError, match="registered twice"):
        Registry([descriptor("a"), descriptor("a")])


def test_retrieve_order_must_name_descriptors_and_have_no_circle():
    with pytest.raises(SchedulerError, match="'nobody', which is not registered"):
        Registry([descriptor("a", retrieve_after=("nobody",))])
    with pytest.raises(SchedulerError, match="circle"):
        Registry([descriptor("a", retrieve_after=("b",)), descriptor("b", retrieve_after=("a",))])
