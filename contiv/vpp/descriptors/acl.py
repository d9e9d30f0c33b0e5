"""Access lists and the interfaces that they stand on (VPP: src/plugins/acl/acl.api).

A list is known by its tag, ``contiv:<name>``, and has an index in the VPP that runs now: ``AccessLists`` maps the one
to the other. Rules travel as the wire records that they are in ``model.Acl``, no rule becomes a Python object. What an
interface of ours has is wholly ours: lists that somebody else put on it are replaced. Interfaces refer to lists, so
the scheduler changes an interface before it deletes a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contiv.errors import VppError
from contiv.model import vpp as model
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.api import builtin_schema
from contiv.vpp.descriptors.base import NO_INDEX, OWNER, Api, Interfaces, lacks, owned, remove
from contiv.vpp.descriptors.layer3 import INTERFACE_DESCRIPTOR, on_interface

STRAY: Final = "~"
"""Stands between name and index where an index has no name of its own: a stranger's list on an interface of ours, or
the second of two lists with one tag, left by a call whose answer was lost. Nobody wants such names, so they go."""


class AccessLists:
    """Names of our access lists and their index in the VPP that runs now."""

    def __init__(self) -> None:
        self._index_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}

    def put(self, name: str, index: int) -> None:
        """Record that ``name`` has ``index`` now."""
        self._index_of[name] = index
        self._name_of[index] = name

    def drop(self, name: str) -> None:
        """Forget ``name``."""
        index = self._index_of.pop(name, None)
        if index is not None:
            self._name_of.pop(index, None)

    def replace(self, names: Mapping[str, int]) -> None:
        """Forget everything and take ``names`` instead, as a resync does."""
        self._index_of = dict(names)
        self._name_of = {index: name for name, index in names.items()}

    def index(self, name: str) -> int:
        """The index of ``name``; VppError when VPP has no such list of ours."""
        try:
            return self._index_of[name]
        except KeyError:
            raise VppError(f"access list {name} is not in VPP yet; it must be created first") from None

    def name(self, index: int) -> str:
        """The name behind ``index``; one that nobody wants for a list that is not ours."""
        return self._name_of.get(index) or f"{STRAY}{index}"


class AclDescriptor(Descriptor[model.Acl, int]):
    """``vpp/acl/<name>``; the metadata is VPP's index."""

    name = "vpp/acl"
    prefix = model.ACL

    def __init__(self, api: Api, lists: AccessLists) -> None:
        self._api = api
        self._lists = lists

    def must_recreate(self, key: str, old: model.Acl, new: model.Acl) -> bool:
        return False

    async def create(self, key: str, value: model.Acl) -> int:
        return await self._write(value, NO_INDEX)

    async def update(self, key: str, old: model.Acl, new: model.Acl, metadata: int) -> int:
        return await self._write(new, metadata)

    async def delete(self, key: str, value: model.Acl, metadata: int) -> None:
        await remove(self._api, "acl_del", acl_index=metadata)
        self._lists.drop(value.name)

    async def retrieve(self, wanted: Mapping[str, model.Acl]) -> Iterable[Actual[model.Acl, int]]:
        self._lists.replace({})
        if lacks(self._api, "acl_dump"):
            return ()
        dumped = await self._api.dump_many("acl", acl_index=NO_INDEX)
        assert dumped.elements is not None
        records = dumped.elements.tobytes()
        ends = (dumped.offsets * model.ACL_RULE_SIZE).tolist()
        names: dict[str, int] = {}
        found = []
        for place, (tag, index) in enumerate(zip(dumped["tag"].tolist(), dumped["acl_index"].tolist(), strict=True)):
            name = owned(tag.decode("ascii", "replace"))
            if name is None:
                continue
            if name in names:
                name = f"{name}{STRAY}{index}"
            names[name] = index
            value = model.Acl(name=name, rules=records[ends[place] : ends[place + 1]])
            found.append(Actual(key=model.key_of(value), value=value, metadata=index))
        self._lists.replace(names)
        return found

    async def _write(self, value: model.Acl, index: int) -> int:
        rules = _rules(value)
        reply = await self._api.call(
            "acl_add_replace", acl_index=index, tag=OWNER + value.name, count=len(rules), r=rules
        )
        written = int(reply.acl_index)
        self._lists.put(value.name, written)
        return written


@cache
def _rule_dtype() -> np.dtype[Any]:
    """``vl_api_acl_rule_t`` as numpy sees it."""
    dtype: np.dtype[Any] = builtin_schema().layout("acl_add_replace").element
    assert dtype.itemsize == model.ACL_RULE_SIZE
    return dtype


def _rules(value: model.Acl) -> NDArray[Any]:
    """The rules as records, not copied."""
    if len(value.rules) % model.ACL_RULE_SIZE:
        size = model.ACL_RULE_SIZE
        raise VppError(f"access list {value.name}: rules of {len(value.rules)} bytes are no records of {size} bytes")
    return np.frombuffer(value.rules, _rule_dtype())


class AclInterfaceDescriptor(Descriptor[model.AclInterface, None]):
    """``vpp/acl-interface/<interface>``: both directions in one message; without lists there is nothing to say."""

    name = "vpp/acl-interface"
    prefix = model.ACL_INTERFACE
    retrieve_after = (*INTERFACE_DESCRIPTOR, "vpp/acl")

    def __init__(self, api: Api, interfaces: Interfaces, lists: AccessLists) -> None:
        self._api = api
        self._interfaces = interfaces
        self._lists = lists

    def dependencies(self, key: str, value: model.AclInterface) -> Iterable[Dependency]:
        yield on_interface(value.interface)
        for name in dict.fromkeys((*value.input, *value.output)):
            if not name.startswith(STRAY):  # a stranger's list has no key
                yield Dependency("access list", model.acl_key(name))

    def must_recreate(self, key: str, old: model.AclInterface, new: model.AclInterface) -> bool:
        return False

    async def create(self, key: str, value: model.AclInterface) -> None:
        if value.input or value.output:
            await self._api.call("acl_interface_set_acl_list", **self._fields(value))

    async def update(self, key: str, old: model.AclInterface, new: model.AclInterface, metadata: None) -> None:
        await self._api.call("acl_interface_set_acl_list", **self._fields(new))

    async def delete(self, key: str, value: model.AclInterface, metadata: None) -> None:
        if value.input or value.output:
            bare = self._fields(model.AclInterface(interface=value.interface))
            await remove(self._api, "acl_interface_set_acl_list", **bare)

    async def retrieve(self, wanted: Mapping[str, model.AclInterface]) -> Iterable[Actual[model.AclInterface, None]]:
        if lacks(self._api, "acl_interface_list_dump"):
            return ()
        found = []
        for entry in await self._api.dump("acl_interface_list", sw_if_index=NO_INDEX):
            name = self._interfaces.name(entry.sw_if_index)
            if name is None:
                continue
            lists = tuple(self._lists.name(index) for index in entry.acls)
            value = model.AclInterface(interface=name, input=lists[: entry.n_input], output=lists[entry.n_input :])
            key = model.key_of(value)
            if lists or key in wanted:
                found.append(Actual(key=key, value=value, metadata=None))
        return found

    def _fields(self, value: model.AclInterface) -> dict[str, Any]:
        acls = [self._lists.index(name) for name in (*value.input, *value.output)]
        index = self._interfaces.index(value.interface)
        return {"sw_if_index": index, "count": len(acls), "n_input": len(value.input), "acls": acls}
