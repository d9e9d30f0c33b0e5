"""The way to the host for packets that VPP takes and has no use for (VPP: src/vnet/ip/punt.c, ip4_punt_drop.c).

TCP has no listener in VPP, so it is punted by itself; UDP to unknown ports is answered with "port unreachable" until
it is told to punt. VPP dumps the redirect and not the latter, which therefore always goes with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from contiv.model import vpp as model
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, Api, Interfaces, from_ip, remove
from contiv.vpp.descriptors.layer3 import INTERFACE_DESCRIPTOR, on_interface

ADDRESS_IP4: Final = 0
L4: Final = 0
UDP: Final = 17
ALL_PORTS: Final = 0xFFFF
"""``set_punt`` for this port means every port that nobody has registered (punt.c, punt_l4_add_del)."""


class PuntRedirectDescriptor(Descriptor[model.PuntRedirect, None]):
    """``vpp/punt-redirect/ip4``."""

    name = "vpp/punt-redirect"
    prefix = model.PUNT_REDIRECT
    retrieve_after = INTERFACE_DESCRIPTOR

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces

    def dependencies(self, key: str, value: model.PuntRedirect) -> Iterable[Dependency]:
        return (on_interface(value.interface),)

    async def create(self, key: str, value: model.PuntRedirect) -> None:
        await self._api.call("add_del_ip_punt_redirect_v2", is_add=True, punt=self._punt(value))
        await self._api.call("set_punt", is_add=True, punt=_unknown_udp())

    async def delete(self, key: str, value: model.PuntRedirect, metadata: None) -> None:
        await self._api.call("set_punt", is_add=False, punt=_unknown_udp())
        await remove(self._api, "add_del_ip_punt_redirect_v2", is_add=False, punt=self._punt(value))

    async def retrieve(self, wanted: Mapping[str, model.PuntRedirect]) -> Iterable[Actual[model.PuntRedirect, None]]:
        found = []
        for entry in await self._api.dump("ip_punt_redirect_v2", sw_if_index=NO_INDEX, af=ADDRESS_IP4):
            if entry.punt.rx_sw_if_index not in ANY_RECEIVER:
                continue
            for path in entry.punt.paths:
                name = self._interfaces.name(path.sw_if_index)
                if name is not None:
                    value = model.PuntRedirect(gateway=from_ip(path.nh.address.ip4), interface=name)
                    found.append(Actual(key=model.key_of(value), value=value, metadata=None))
        return found

    def _punt(self, value: model.PuntRedirect) -> dict[str, Any]:
        path = {
            "sw_if_index": self._interfaces.index(value.interface),
            "weight": 1,
            "nh": {"address": {"ip4": str(value.gateway)}},
        }
        return {"rx_sw_if_index": NO_INDEX, "af": ADDRESS_IP4, "n_paths": 1, "paths": [path]}


ANY_RECEIVER: Final = frozenset({0, NO_INDEX})
"""The redirect for every interface is kept in the place of local0, whose index is 0 (ip_punt_drop.c)."""


def _unknown_udp() -> dict[str, Any]:
    return {"type": L4, "punt": {"l4": {"af": ADDRESS_IP4, "protocol": UDP, "port": ALL_PORTS}}}
