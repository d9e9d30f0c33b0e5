"""NAT44-ED itself, its interfaces, addresses and exemptions (VPP: src/plugins/nat/nat44-ed/nat44_ed.api).

``nat_mapping`` beside this file has the load-balancing mappings. Settings and addresses carry no mark in VPP: a NAT
that answers for our node's address is ours wholly. Everything rests on the settings, since VPP forgets all of it when
the plugin is switched off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from contiv.errors import VppError
from contiv.model import vpp as model
from contiv.model.ip import Address
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, OWNER, Api, Interfaces, from_ip, lacks, remove
from contiv.vpp.descriptors.layer3 import INTERFACE_DESCRIPTOR, on_interface
from contiv.vpp.errors import VppApiError

TWICE_NAT: Final = 0x01
SELF_TWICE_NAT: Final = 0x02
OUT2IN_ONLY: Final = 0x04
ADDRESS_ONLY: Final = 0x08
OUTSIDE: Final = 0x10
INSIDE: Final = 0x20
"""``vl_api_nat_config_flags_t`` (plugins/nat/lib/nat_types.api)."""
INPUT_ARC: Final = "ip4-unicast"
INPUT_OF_OUTPUT: Final = ("nat-pre-out2in", "nat44-out2in-worker-handoff")
"""What an output interface does with replies, without and with workers (nat44_ed_add_output_interface)."""
INPUT_OF_INSIDE: Final = ("nat-pre-in2out", "nat44-in2out-worker-handoff")
CLASSIFIERS: Final = ("nat44-ed-classify", "nat44-handoff-classify")
"""What an interface does with what comes in that is inside, and that is outside as well (nat44_ed_add_interface)."""
MAIN_VRF: Final = 0
IDENTITY_TAG: Final = f"{OWNER}identity"
SETTINGS: Final = "vpp/nat-settings"
ON_NAT: Final = Dependency("NAT", model.nat_settings_key())


class NatSettingsDescriptor(Descriptor[model.NatSettings, None]):
    """``vpp/nat-settings/nat44-ed``: the plugin enabled, forwarding on, timeouts set."""

    name = SETTINGS
    prefix = model.NAT_SETTINGS

    def __init__(self, api: Api) -> None:
        self._api = api

    def must_recreate(self, key: str, old: model.NatSettings, new: model.NatSettings) -> bool:
        return old.sessions != new.sessions

    async def create(self, key: str, value: model.NatSettings) -> None:
        try:
            await self._enable(value)
        except VppApiError as error:
            if error.name != "FEATURE_ALREADY_ENABLED":
                raise
            # An earlier try came further than its answer. Nothing rests on it yet.
            await self._api.call("nat44_ed_plugin_enable_disable", enable=False)
            await self._enable(value)
        await self._tune(value)

    async def update(self, key: str, old: model.NatSettings, new: model.NatSettings, metadata: None) -> None:
        await self._tune(new)

    async def delete(self, key: str, value: model.NatSettings, metadata: None) -> None:
        try:
            await self._api.call("nat44_ed_plugin_enable_disable", enable=False)
        except VppApiError as error:
            if error.name != "FEATURE_ALREADY_DISABLED":
                raise

    async def retrieve(self, wanted: Mapping[str, model.NatSettings]) -> Iterable[Actual[model.NatSettings, None]]:
        if lacks(self._api, "nat44_show_running_config"):
            return ()
        running = await self._api.call("nat44_show_running_config")
        if not running.sessions:
            return ()  # VPP keeps the number of sessions only while the plugin is enabled
        value = model.NatSettings(
            # another VRF takes another start: shown as a number of sessions that nobody wants
            sessions=0 if running.inside_vrf or running.outside_vrf else running.sessions,
            # forwarding is put right together with the timeouts: its absence shows as one that nobody wants
            udp_s=running.timeouts.udp if running.forwarding_enabled else 0,
            tcp_established_s=running.timeouts.tcp_established,
            tcp_transitory_s=running.timeouts.tcp_transitory,
            icmp_s=running.timeouts.icmp,
        )
        return (Actual(key=model.key_of(value), value=value, metadata=None),)

    async def _enable(self, value: model.NatSettings) -> None:
        await self._api.call(
            "nat44_ed_plugin_enable_disable", enable=True, sessions=value.sessions, inside_vrf=MAIN_VRF,
            outside_vrf=MAIN_VRF,
        )  # fmt: skip

    async def _tune(self, value: model.NatSettings) -> None:
        forwarding = self._api.call("nat44_forwarding_enable_disable", enable=True)
        timeouts = self._api.call(
            "nat_set_timeouts", udp=value.udp_s, tcp_established=value.tcp_established_s,
            tcp_transitory=value.tcp_transitory_s, icmp=value.icmp_s,
        )  # fmt: skip
        await asyncio.gather(forwarding, timeouts)


class NatInterfaceDescriptor(Descriptor[model.NatInterface, None]):
    """``vpp/nat-interface/<interface>``: inside, outside, or the output feature; VPP refuses the last beside others."""

    name = "vpp/nat-interface"
    prefix = model.NAT_INTERFACE
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.NatInterface) -> Iterable[Dependency]:
        return (ON_NAT, on_interface(value.interface))

    def must_recreate(self, key: str, old: model.NatInterface, new: model.NatInterface) -> bool:
        return (old.output, old.one_way, old.classified) != (new.output, new.one_way, new.classified)

    async def create(self, key: str, value: model.NatInterface) -> None:
        index = self._interfaces.index(value.interface)
        await self._features(index, value, is_add=True)
        if value.output and index not in await self._outputs():
            await self._api.call("nat44_ed_add_del_output_interface", sw_if_index=index, is_add=True)
        if value.one_way:
            await self._take(index, INPUT_OF_OUTPUT)
        if value.classified:
            await self._classify(index)

    async def update(self, key: str, old: model.NatInterface, new: model.NatInterface, metadata: None) -> None:
        index = self._interfaces.index(new.interface)
        await self._features(index, new, is_add=True, unlike=old)
        await self._features(index, old, is_add=False, unlike=new)

    async def delete(self, key: str, value: model.NatInterface, metadata: None) -> None:
        index = self._interfaces.index(value.interface)
        if value.classified:
            await self._take(index, CLASSIFIERS)
        await self._features(index, value, is_add=False)
        if value.output:  # VPP takes its input features away again: that one is not there does not matter to it
            await remove(self._api, "nat44_ed_add_del_output_interface", sw_if_index=index, is_add=False)

    async def retrieve(self, wanted: Mapping[str, model.NatInterface]) -> Iterable[Actual[model.NatInterface, None]]:
        if lacks(self._api, "nat44_interface_dump"):
            return ()
        flags = {entry.sw_if_index: int(entry.flags) for entry in await self._api.dump("nat44_interface")}
        outputs = await self._outputs()
        insiders = [index for index, sides in flags.items() if sides == INSIDE]
        classified = dict(zip(insiders, await asyncio.gather(*map(self._is_classified, insiders)), strict=True))
        found = []
        for index in sorted({*flags, *outputs}):
            name = self._interfaces.name(index)
            if name is not None:
                value = model.NatInterface(
                    interface=name,
                    inside=bool(flags.get(index, 0) & INSIDE),
                    outside=bool(flags.get(index, 0) & OUTSIDE),
                    classified=classified.get(index, False),
                    output=index in outputs,
                    one_way=index in outputs and not await self._has(index, INPUT_OF_OUTPUT),
                )
                found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found

    async def _classify(self, index: int) -> None:
        """Put the classifier in the place of the inside's own feature; which of each, depends on VPP's workers."""
        inside = await self._enabled(index, INPUT_OF_INSIDE)
        await self._take(index, INPUT_OF_INSIDE)
        await asyncio.gather(
            *(self._input(index, CLASSIFIERS[INPUT_OF_INSIDE.index(feature)], enable=True) for feature in inside)
        )

    async def _is_classified(self, index: int) -> bool:
        return await self._has(index, CLASSIFIERS)

    async def _take(self, index: int, features: Iterable[str]) -> None:
        """Take features away; one that is not there does not matter to VPP."""
        await asyncio.gather(*(self._input(index, feature, enable=False) for feature in features))

    async def _input(self, index: int, feature: str, *, enable: bool) -> None:
        await self._api.call(
            "feature_enable_disable", sw_if_index=index, enable=enable, arc_name=INPUT_ARC, feature_name=feature
        )

    async def _has(self, index: int, features: Sequence[str]) -> bool:
        return bool(await self._enabled(index, features))

    async def _enabled(self, index: int, features: Sequence[str]) -> list[str]:
        """Those of the features that look at what comes in."""
        replies = await asyncio.gather(
            *(
                self._api.call("feature_is_enabled", arc_name=INPUT_ARC, feature_name=feature, sw_if_index=index)
                for feature in features
            )
        )
        return [feature for feature, reply in zip(features, replies, strict=True) if reply.is_enabled]

    async def _outputs(self) -> set[int]:
        return {entry.sw_if_index for entry in await self._api.dump("nat44_ed_output_interface")}

    async def _features(
        self, index: int, value: model.NatInterface, *, is_add: bool, unlike: model.NatInterface | None = None
    ) -> None:
        """Add or remove what ``value`` has and ``unlike`` has not; VPP takes an addition twice."""
        flags = _sides(value) & ~(_sides(unlike) if unlike is not None else 0)
        for flag in (INSIDE, OUTSIDE):
            if flags & flag:
                send = self._api.call if is_add else _remover(self._api)
                await send("nat44_interface_add_del_feature", sw_if_index=index, is_add=is_add, flags=flag)


def _sides(value: model.NatInterface) -> int:
    return INSIDE * value.inside | OUTSIDE * value.outside


def _remover(api: Api) -> Any:
    async def send(name: str, /, **fields: Any) -> None:
        await remove(api, name, **fields)

    return send


class NatAddressDescriptor(Descriptor[model.NatAddress, None]):
    """``vpp/nat-address/<pool or twice>/<address>``."""

    name = "vpp/nat-address"
    prefix = model.NAT_ADDRESS

    def __init__(self, api: Api) -> None:
        self._api = api

    def dependencies(self, key: str, value: model.NatAddress) -> Iterable[Dependency]:
        return (ON_NAT,)

    async def create(self, key: str, value: model.NatAddress) -> None:
        await tolerate_existing(self._api, "nat44_add_del_address_range", is_add=True, **_range(value))

    async def delete(self, key: str, value: model.NatAddress, metadata: None) -> None:
        await remove(self._api, "nat44_add_del_address_range", is_add=False, **_range(value))

    async def retrieve(self, wanted: Mapping[str, model.NatAddress]) -> Iterable[Actual[model.NatAddress, None]]:
        if lacks(self._api, "nat44_address_dump"):
            return ()
        values = [
            model.NatAddress(address=from_ip(entry.ip_address), twice=bool(int(entry.flags) & TWICE_NAT))
            for entry in await self._api.dump("nat44_address")
        ]
        return [Actual(key=model.key_of(value), value=value, metadata=None) for value in values]


def _range(value: model.NatAddress) -> dict[str, Any]:
    address = _ip4(value.address)
    flags = TWICE_NAT if value.twice else 0
    return {"first_ip_address": address, "last_ip_address": address, "vrf_id": NO_INDEX, "flags": flags}


class NatIdentityDescriptor(Descriptor[model.NatIdentity, None]):
    """``vpp/nat-identity/<protocol>/<address>/<port>``, tagged as ours."""

    name = "vpp/nat-identity"
    prefix = model.NAT_IDENTITY

    def __init__(self, api: Api) -> None:
        self._api = api

    def dependencies(self, key: str, value: model.NatIdentity) -> Iterable[Dependency]:
        return (ON_NAT,)

    async def create(self, key: str, value: model.NatIdentity) -> None:
        try:
            await self._api.call("nat44_add_del_identity_mapping", is_add=True, **_identity(value))
        except VppApiError as error:
            if error.name != "VALUE_EXIST" or key not in {actual.key for actual in await self.retrieve({})}:
                raise

    async def delete(self, key: str, value: model.NatIdentity, metadata: None) -> None:
        await remove(self._api, "nat44_add_del_identity_mapping", is_add=False, **_identity(value))

    async def retrieve(self, wanted: Mapping[str, model.NatIdentity]) -> Sequence[Actual[model.NatIdentity, None]]:
        if lacks(self._api, "nat44_identity_mapping_dump"):
            return ()
        values = [
            model.NatIdentity(address=from_ip(entry.ip_address), protocol=int(entry.protocol), port=entry.port)
            for entry in await self._api.dump("nat44_identity_mapping")
            if entry.tag.startswith(OWNER)
        ]
        return [Actual(key=model.key_of(value), value=value, metadata=None) for value in values]


def _identity(value: model.NatIdentity) -> dict[str, Any]:
    whole = not value.protocol and not value.port
    return {
        "ip_address": _ip4(value.address),
        "protocol": value.protocol,
        "port": value.port,
        "sw_if_index": NO_INDEX,
        "vrf_id": MAIN_VRF,
        "flags": ADDRESS_ONLY if whole else 0,
        "tag": IDENTITY_TAG,
    }


async def tolerate_existing(api: Api, name: str, /, **fields: Any) -> None:
    """Send a request that adds something; that it is there already is a success."""
    try:
        await api.call(name, **fields)
    except VppApiError as error:
        if error.name != "VALUE_EXIST":
            raise


def _ip4(address: Address) -> str:
    if address.version != 4:
        raise VppError(f"NAT44-ED cannot take {address}: it is no IPv4 address")
    return str(address)
