"""CNAT's translations of services (VPP: src/plugins/cnat/cnat.api, cnat_translation.c, cnat_node_vip.c).

One message makes a translation or changes it, with all its backends; those that stay keep their connections, those
that are gone lose theirs as soon as CNAT's scanner comes by. VPP never gets one without backends: it would ask for four
thousand million of them (``cnat_api.c``, ``n_paths - 1``).

VPP lists backends with the address that they see and with their flags, but neither a translation's own flags nor its
hash. So a bit of the backends' flags says that the translation is ours, and another one that it has affinity; the
other flags follow from what is listed. Neither hash nor kind of balancing change in an update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from contiv.errors import VppError
from contiv.model import cnat as model
from contiv.model.ip import Address
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, Api, remove
from contiv.vpp.descriptors.cnat import (
    MARK,
    ON_CNAT,
    OURS,
    SETTINGS,
    Listed,
    address_of,
    any_address,
    endpoint,
    owners,
)

AFFINITY: Final = 0x10
"""On every path of a translation with affinity; see ``OURS``."""
ALLOCATE_PORT: Final = 0x01
"""``cnat_translation_flags``: hidden clients get a port of CNAT's, or two with one port would be the same."""
MAGLEV: Final = 1
"""``cnat_lb_type``."""
BY_FLOW, BY_CLIENT = 0, 1
"""``vl_api_ip_flow_hash_config_v2``: VPP's default, which reads addresses and ports; the source address alone."""
SCTP: Final = 132
"""Its ports are not CNAT's to give (``cnat_get_src_port_allocator``): clients keep theirs."""
AT_ONCE: Final = 1024
PATH_SIZE: Final = 49
TARGET, TARGET_PORT, SOURCE = 1, 22, 25
"""``vl_api_cnat_endpoint_tuple_t``: two endpoints (family, 16 bytes of address, interface, family, port), flags."""


class CnatTranslationDescriptor(Descriptor[model.CnatTranslation, int]):
    """``vpp/cnat-translation/<protocol>/<address>/<port>``; the metadata is VPP's number of it."""

    name = "vpp/cnat-translation"
    prefix = model.TRANSLATION
    retrieve_after = (SETTINGS,)
    create_at_once = AT_ONCE

    def __init__(self, api: Api, listed: Listed) -> None:
        self._api = api
        self._listed = listed

    def dependencies(self, key: str, value: model.CnatTranslation) -> Iterable[Dependency]:
        return _NEEDS

    def must_recreate(self, key: str, old: model.CnatTranslation, new: model.CnatTranslation) -> bool:
        return old.affinity != new.affinity

    async def create(self, key: str, value: model.CnatTranslation) -> int:
        return int((await self._api.call("cnat_translation_update", **request(value))).id)

    async def create_many(self, items: Sequence[tuple[str, model.CnatTranslation]]) -> Sequence[int | BaseException]:
        made: list[int | BaseException] = []
        requests = []
        for _, value in items:
            try:
                requests.append(("cnat_translation_update", request(value)))
                made.append(NO_INDEX)
            except VppError as error:
                made.append(error)
        replies = iter(await self._api.batch(requests, return_errors=True))
        for place, result in enumerate(made):
            if not isinstance(result, BaseException):
                reply = next(replies)
                made[place] = reply if isinstance(reply, BaseException) else int(reply.id)
        return made

    async def update(self, key: str, old: model.CnatTranslation, new: model.CnatTranslation, metadata: int) -> int:
        return int((await self._api.call("cnat_translation_update", **request(new))).id)

    async def delete(self, key: str, value: model.CnatTranslation, metadata: int) -> None:
        await remove(self._api, "cnat_translation_del", id=metadata)

    async def retrieve(
        self, wanted: Mapping[str, model.CnatTranslation]
    ) -> Iterable[Actual[model.CnatTranslation, int]]:
        columns = self._listed.columns
        if columns is None or not columns.n:
            return ()
        assert columns.elements is not None
        entries, paths = columns["translation"], columns.elements.tobytes()
        assert columns.elements.itemsize == PATH_SIZE
        found, at = [], 0
        for place, (count, ours) in enumerate(zip(columns.counts.tolist(), owners(columns), strict=True)):
            entry = entries[place]
            if ours and entry["ip_proto"] != MARK:
                value = _read(entry, paths[at * PATH_SIZE : (at + count) * PATH_SIZE])
                found.append(Actual(key=model.key_of(value), value=value, metadata=int(entry["id"])))
            at += count
        return found


_NEEDS: Final[tuple[Dependency, ...]] = (ON_CNAT,)


def request(value: model.CnatTranslation) -> dict[str, Any]:
    """The request that makes the translation or changes it; VppError for one that VPP must not be given."""
    chosen = model.backends(value.backends, value.address.version)
    if not 1 <= len(chosen) <= model.BACKENDS_MAX:
        what = f"translation of {value.address} port {value.port}"
        raise VppError(f"{what}: {len(chosen)} backends; there must be 1 to {model.BACKENDS_MAX}")
    nobody = any_address(value.address.version)
    flags = OURS | (AFFINITY if value.affinity else 0)
    paths = [
        {
            "dst_ep": endpoint(each.address, each.port),
            "src_ep": endpoint(value.source if each.hidden and value.source is not None else nobody, 0),
            "flags": flags,
        }
        for each in chosen
    ]
    gives_ports = value.source is not None and value.protocol != SCTP
    return {
        "translation": {
            "vip": endpoint(value.address, value.port), "id": NO_INDEX, "ip_proto": value.protocol, "is_real_ip": 1,
            "flags": ALLOCATE_PORT if gives_ports else 0, "lb_type": MAGLEV,
            "flow_hash_config": BY_CLIENT if value.affinity else BY_FLOW, "n_paths": len(paths), "paths": paths,
        }
    }  # fmt: skip


def _read(entry: Any, paths: bytes) -> model.CnatTranslation:
    """A translation of ours as VPP lists it, ``paths`` being its paths' bytes."""
    address: Address = address_of(entry["vip"]["addr"])
    size = len(address.packed)
    records = []
    source = b""
    for at in range(0, len(paths), PATH_SIZE):
        seen = paths[at + SOURCE : at + SOURCE + size]
        hidden = any(seen)
        source = seen if hidden else source
        port = paths[at + TARGET_PORT : at + TARGET_PORT + 2]
        records.append(paths[at + TARGET : at + TARGET + size] + port + bytes((hidden,)))
    return model.CnatTranslation(
        address=address,
        port=int(entry["vip"]["port"]),
        protocol=int(entry["ip_proto"]),
        backends=b"".join(sorted(records)),
        source=Address(address.version, int.from_bytes(source, "big")) if source else None,
        affinity=bool(paths[PATH_SIZE - 1] & AFFINITY),
    )
