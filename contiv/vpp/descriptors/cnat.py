"""What CNAT needs so that pods reach themselves through services (VPP: src/plugins/cnat/cnat.api, cnat_snat_policy.c).

A hairpin is a translation of a protocol that no packet has (``MARK``), with a flag that the API passes on without
naming it: it makes VPP lead what is addressed to the pod through ``cnat-snat-ip4-client``, which asks the policy.
The policy is the one for Kubernetes; it hides clients that are their own backend, and those of any interface that is
not in its table of pods, so that every interface has to be there before the policy is on.

VPP tells little of this. Marks that it does list stand for what it does not: a translation of ``MARK`` each for the
address that clients are hidden behind and for the policy. Interfaces are read from the debug CLI. Two things stay in a
VPP that no longer wants CNAT, since taking them out is not safe: the interfaces' places in the table, and the source
address (deleting it leaves a pointer behind: ``cnat_snat_cleanup`` forgets ``snat_default_policy``). Neither has any
effect without hairpins and policy.

``cnat_translation`` beside this file has the services' translations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from contiv.fastpath import Columns
from contiv.model import cnat as model
from contiv.model.ip import Address
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, Api, Interfaces, from_ip, lacks, remove
from contiv.vpp.descriptors.layer3 import on_interface

MARK: Final = 255
"""The protocol number that stays reserved (IANA), which CNAT looks up for no packet (``cnat_make_buffer_5tuple``)."""
PIN_PORT, HAIRPIN_PORT, POLICY_PORT = 1, 2, 3
MAIN_TABLE: Final = 0
OURS: Final = 0x20
"""On every path of ours. VPP keeps a path's flags and lists them; it reads only bits 1, 2, 3 and 7 (cnat_types.h)."""
SNAT_DNAT: Final = 0x40
"""``CNAT_TR_FLAG_SNAT_DNAT`` (cnat_translation.h)."""
NO_CLIENT: Final = 0x02
USE_AS_DEFAULT: Final = 0x04
"""``cnat_snat_policy_flags``. Without NO_CLIENT VPP would drop what else is sent to the address."""
POLICY_LISTED, POLICY_KUBERNETES = 1, 2
"""``cnat_snat_policies``. LISTED hides clients of listed interfaces, and there are none. NONE hides all of them."""
TABLE_POD: Final = 2
"""``cnat_snat_policy_table``."""
SETTINGS: Final = "vpp/cnat-settings"
HAIRPINS: Final = "vpp/cnat-hairpins"
ON_CNAT: Final = Dependency("CNAT", model.settings_key())
DUMP_TIMEOUT_S: Final = 60.0
"""VPP lists 100,000 backends in a fraction of a second; a loaded machine may take longer."""
MESSAGES: Final = (
    "cnat_translation_update", "cnat_translation_del", "cnat_translation_dump", "cnat_set_snat_addresses_v2",
    "cnat_set_snat_policy", "cnat_snat_policy_add_del_if", "cnat_snat_addresses_dump", "cnat_get_snat_addresses",
    "cnat_session_dump", "cli_inband",
)  # fmt: skip
"""What the renderer cannot do without."""
_POD_INTERFACES: Final = re.compile(r"^k8s pod interfaces:\n((?:  \S.*\n)*)", re.MULTILINE)


class Listed:
    """The translations that VPP holds, read once a resync: the settings' descriptor reads, the others look."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.columns: Columns | None = None

    async def read(self) -> None:
        """Ask VPP; one without the plugin has none."""
        if lacks(self._api, "cnat_translation_dump"):
            self.columns = None
        else:
            self.columns = await self._api.dump_many("cnat_translation", timeout_s=DUMP_TIMEOUT_S)

    def marks(self, port: int) -> dict[Address, int]:
        """The numbers of the marks of one kind that are ours, by their address."""
        if self.columns is None or not self.columns.n:
            return {}
        entries, found = self.columns["translation"], {}
        owned = owners(self.columns)
        for place in ((entries["ip_proto"] == MARK) & (entries["vip"]["port"] == port)).nonzero()[0].tolist():
            if owned[place]:
                found[address_of(entries["vip"]["addr"][place])] = int(entries["id"][place])
        return found


def owners(columns: Columns) -> list[bool]:
    """By translation, whether it is ours: its first path says so."""
    assert columns.elements is not None
    flags, at, owned = columns.elements["flags"].tolist(), 0, []
    for count in columns.counts.tolist():
        owned.append(bool(count) and bool(flags[at] & OURS))
        at += count
    return owned


def address_of(value: Any) -> Address:
    """A ``vl_api_address_t`` of a column."""
    version = 6 if value["af"] else 4
    raw = value["un"]["ip6"].tobytes() if version == 6 else value["un"]["ip4"].tobytes()
    return Address(4 if version == 4 else 6, int.from_bytes(raw, "big"))


def endpoint(address: Address, port: int) -> dict[str, Any]:
    """A ``vl_api_cnat_endpoint_t``."""
    return {"addr": str(address), "sw_if_index": NO_INDEX, "if_af": int(address.version == 6), "port": port}


def any_address(version: int) -> Address:
    """No address."""
    return Address(4 if version == 4 else 6, 0)


def mark(address: Address, port: int, *, flags: int = 0) -> dict[str, Any]:
    """The request for a translation that stands for something else."""
    path = {
        "dst_ep": endpoint(model.BLACK_HOLE[address.version], 0),
        "src_ep": endpoint(any_address(address.version), 0),
        "flags": OURS,
    }
    return {
        "translation": {
            "vip": endpoint(address, port), "id": NO_INDEX, "ip_proto": MARK, "is_real_ip": 1, "flags": flags,
            "lb_type": 0, "flow_hash_config": 0, "n_paths": 1, "paths": [path],
        }
    }  # fmt: skip


class CnatSettingsDescriptor(Descriptor[model.CnatSettings, int]):
    """``vpp/cnat-settings/cnat``: the address that clients are hidden behind; the metadata is its mark's number.

    The mark also keeps CNAT's hold on the address, which would go with the last session otherwise.
    """

    name = SETTINGS
    prefix = model.SETTINGS

    def __init__(self, api: Api, listed: Listed) -> None:
        self._api = api
        self._listed = listed

    async def create(self, key: str, value: model.CnatSettings) -> int:
        reply = await self._api.call("cnat_translation_update", **mark(value.hidden, PIN_PORT))
        await self._api.call(
            "cnat_set_snat_addresses_v2", fwd_fib_index=MAIN_TABLE, ret_fib_index=MAIN_TABLE,
            snat_ip4=str(value.hidden), snat_ip6="::", sw_if_index=NO_INDEX, flags=NO_CLIENT | USE_AS_DEFAULT,
        )  # fmt: skip
        # a new entry has the policy that hides everybody; before there is an entry this ends VPP
        await self._api.call("cnat_set_snat_policy", policy=POLICY_LISTED)
        return int(reply.id)

    def must_recreate(self, key: str, old: model.CnatSettings, new: model.CnatSettings) -> bool:
        return True

    async def delete(self, key: str, value: model.CnatSettings, metadata: int) -> None:
        await remove(self._api, "cnat_translation_del", id=metadata)

    async def retrieve(self, wanted: Mapping[str, model.CnatSettings]) -> Iterable[Actual[model.CnatSettings, int]]:
        await self._listed.read()
        pins = self._listed.marks(PIN_PORT)
        if not pins:
            return ()
        sources = {from_ip(entry.snat_ip4) for entry in await self._api.dump("cnat_snat_addresses")}
        # a mark without its address is half of a creation that was broken off: made anew
        address, number = next(((each, pins[each]) for each in pins if each in sources), next(iter(pins.items())))
        value = model.CnatSettings(hidden=address if address in sources else any_address(4))
        return (Actual(key=model.key_of(value), value=value, metadata=number),)


class CnatInterfaceDescriptor(Descriptor[model.CnatInterface, None]):
    """``vpp/cnat-interface/<interface>``: a place in the policy's table of pods, which is never taken back."""

    name = "vpp/cnat-interface"
    prefix = model.INTERFACE
    retrieve_after = ("vpp/interface", SETTINGS)

    def __init__(self, api: Api, interfaces: Interfaces, listed: Listed) -> None:
        self._api = api
        self._interfaces = interfaces
        self._listed = listed

    def dependencies(self, key: str, value: model.CnatInterface) -> Iterable[Dependency]:
        return (ON_CNAT, on_interface(value.interface))

    async def create(self, key: str, value: model.CnatInterface) -> None:
        index = self._interfaces.index(value.interface)
        await self._api.call("cnat_snat_policy_add_del_if", sw_if_index=index, is_add=1, table=TABLE_POD)

    async def delete(self, key: str, value: model.CnatInterface, metadata: None) -> None:
        """Leave it in: a connection may be under way, and whoever gets the number next belongs there too."""

    async def retrieve(self, wanted: Mapping[str, model.CnatInterface]) -> Iterable[Actual[model.CnatInterface, None]]:
        if not wanted or not self._listed.marks(PIN_PORT):
            return ()  # without an address VPP refuses to show its policy
        told = _POD_INTERFACES.search((await self._api.call("cli_inband", cmd="show cnat snat-policy")).reply)
        names = {line.strip() for line in told[1].splitlines()} if told else set()
        details = await self._api.dump("sw_interface", sw_if_index=NO_INDEX, name_filter_valid=False, name_filter="")
        inside = {entry.sw_if_index for entry in details if entry.interface_name in names}
        found = []
        for name, index in self._interfaces.items():
            value = model.CnatInterface(interface=name)
            if index in inside and model.key_of(value) in wanted:
                found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found


class CnatHairpinsDescriptor(Descriptor[model.CnatHairpins, int]):
    """``vpp/cnat-hairpins/policy``: the policy for Kubernetes is on; the metadata is its mark's number."""

    name = HAIRPINS
    prefix = model.HAIRPINS
    retrieve_after = (SETTINGS,)

    def __init__(self, api: Api, listed: Listed) -> None:
        self._api = api
        self._listed = listed

    def dependencies(self, key: str, value: model.CnatHairpins) -> Iterable[Dependency]:
        yield ON_CNAT
        for name in value.interfaces:
            yield Dependency("CNAT on interface", model.interface_key(name))

    async def create(self, key: str, value: model.CnatHairpins) -> int:
        await self._api.call("cnat_set_snat_policy", policy=POLICY_KUBERNETES)
        address = model.BLACK_HOLE[4]
        return int((await self._api.call("cnat_translation_update", **mark(address, POLICY_PORT))).id)

    async def update(self, key: str, old: model.CnatHairpins, new: model.CnatHairpins, metadata: int) -> int:
        return metadata  # other interfaces are other dependencies; the policy is the same

    async def delete(self, key: str, value: model.CnatHairpins, metadata: int) -> None:
        await remove(self._api, "cnat_translation_del", id=metadata)
        await self._api.call("cnat_set_snat_policy", policy=POLICY_LISTED)

    async def retrieve(self, wanted: Mapping[str, model.CnatHairpins]) -> Iterable[Actual[model.CnatHairpins, int]]:
        return [
            Actual(key=model.hairpins_key(), value=wanted.get(model.hairpins_key(), _NO_INTERFACES), metadata=number)
            for number in self._listed.marks(POLICY_PORT).values()
        ]


_NO_INTERFACES: Final = model.CnatHairpins(interfaces=())


class CnatHairpinDescriptor(Descriptor[model.CnatHairpin, int]):
    """``vpp/cnat-hairpin/<address>``; the metadata is its mark's number."""

    name = "vpp/cnat-hairpin"
    prefix = model.HAIRPIN
    retrieve_after = (SETTINGS,)

    def __init__(self, api: Api, listed: Listed) -> None:
        self._api = api
        self._listed = listed

    def dependencies(self, key: str, value: model.CnatHairpin) -> Iterable[Dependency]:
        return (Dependency("policy of hairpins", model.hairpins_key()),)

    async def create(self, key: str, value: model.CnatHairpin) -> int:
        reply = await self._api.call("cnat_translation_update", **mark(value.address, HAIRPIN_PORT, flags=SNAT_DNAT))
        return int(reply.id)

    async def delete(self, key: str, value: model.CnatHairpin, metadata: int) -> None:
        await remove(self._api, "cnat_translation_del", id=metadata)

    async def retrieve(self, wanted: Mapping[str, model.CnatHairpin]) -> Iterable[Actual[model.CnatHairpin, int]]:
        marks = self._listed.marks(HAIRPIN_PORT)
        return [
            Actual(key=model.hairpin_key(address), value=model.CnatHairpin(address=address), metadata=number)
            for address, number in marks.items()
        ]
