"""contiv/scheduler/descriptor.py and retrieve.py: defaults, and what retrieval demands of a descriptor."""

from __future__ import annotations

import asyncio

import pytest
from msgspec import Struct

from contiv.errors import SchedulerError
from contiv.scheduler import Actual, Dependency, Descriptor, Metadata, Resync, RetrieveError, Scheduler, Txn


class Loopback(Struct, frozen=True):
    mac: str


class Minimal(Descriptor[Loopback, int]):
    """Only what must be written: no update, no dependencies."""

    name = "loop"
    prefix = "loop/"

    def __init__(self):
        self.log = []
        self.found = []

    async def create(self, key, value):
        self.log.append(f"create {key} {value.mac}")
        return len(self.log)

    async def delete(self, key, value, metadata):
        self.log.append(f"delete {key} {metadata}")

    async def retrieve(self, wanted):
        return self.found


async def test_descriptor_without_update_recreates():
    descriptor = Minimal()
    scheduler = Scheduler([descriptor])
    await scheduler.commit(Txn({"loop/0": Loopback("a")}))
    await scheduler.commit(Txn({"loop/0": Loopback("b")}))
    assert descriptor.log == ["create loop/0 a", "delete loop/0 1", "create loop/0 b"]


def test_dependency_reads_like_a_sentence():
    assert str(Dependency("interface", "vpp/interface/x")) == "interface vpp/interface/x"
    assert str(Dependency("path", any_of=("a/1", "a/2"))) == "path a/1 or a/2"


@pytest.mark.parametrize(
    ("keys", "problem"),
    [(["loop/0", "loop/0"], "found twice"), (["other/0"], "no descriptor for key 'other/0'")],
)
async def test_retrieval_with_wrong_keys_stops_the_resync(keys, problem):
    descriptor = Minimal()
    descriptor.found = [Actual(key, Loopback("a"), 1) for key in keys]
    outcome = await Scheduler([descriptor]).commit(Txn({}, resync=Resync.FULL))
    (error,) = outcome.errors
    assert isinstance(error, RetrieveError)
    assert problem in str(error)
    assert descriptor.log == []


async def test_descriptor_that_retrieves_later_sees_the_metadata_of_the_earlier():
    metadata, seen = Metadata(), []

    class Later(Minimal):
        name, prefix, retrieve_after = "later", "later/", ("loop",)

        async def retrieve(self, wanted):
            seen.append(metadata.under("loop/"))
            return []

    class Earlier(Minimal):
        async def retrieve(self, wanted):
            await asyncio.sleep(0)
            return [Actual("loop/0", Loopback("a"), 7)]

    scheduler = Scheduler([Later(), Earlier()], metadata=metadata)
    await scheduler.commit(Txn({"loop/0": Loopback("a")}, resync=Resync.FULL))
    assert seen == [{"loop/0": 7}]


def test_metadata_of_the_wrong_type_is_an_error_that_names_the_key():
    metadata = Metadata()
    metadata.put("loop/0", "text")
    with pytest.raises(SchedulerError, match="metadata of loop/0: wanted int"):
        metadata.require("loop/0", int)
    with pytest.raises(SchedulerError, match="loop/1"):
        metadata.require("loop/1", int)
