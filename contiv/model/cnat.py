"""Desired objects of VPP's CNAT, and the keys that they stand under. Values only; ``contiv.vpp.descriptors.cnat*``
makes calls of them, ``contiv.service.render_cnat`` makes them.

``CnatTranslation`` is a service's address and port; the others exist so that a pod can reach itself through its own
service: CNAT hides a client behind ``CnatSettings.hidden`` where client and backend are one (``CnatHairpin``), and
knows which interfaces it must never hide clients of for another reason (``CnatInterface``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from contiv.model.ip import Address

BACKENDS_MAX: Final = 100
"""Of one translation. Maglev's table has 1,009 places (VPP: CNAT_DEFAULT_MAGLEV_LEN): 10 or 11 for each of so many."""
BLACK_HOLE: Final = {4: Address.parse("240.0.0.1"), 6: Address.parse("100::1")}
"""Backends that VPP drops everything for: class E stands so in every IPv4 table (vnet/fib/ip4_fib.c), RFC 6666."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What all values are."""


class CnatSettings(_Value, frozen=True, kw_only=True):
    """CNAT may hide clients behind ``hidden``, an address that is routed to this node and is nobody's."""

    hidden: Address


class CnatInterface(_Value, frozen=True, kw_only=True):
    """CNAT keeps the addresses of whoever comes in by the interface, but for hairpins."""

    interface: str


class CnatHairpins(_Value, frozen=True, kw_only=True):
    """Clients that reach themselves are hidden. ``interfaces`` must all be ``CnatInterface`` before."""

    interfaces: tuple[str, ...]


class CnatHairpin(_Value, frozen=True, kw_only=True):
    """What comes to ``address`` from ``address`` itself is hidden. Nothing but TCP, UDP, SCTP and ICMP gets there."""

    address: Address


class CnatTranslation(_Value, frozen=True, kw_only=True):
    """Connections to ``address``, ``port`` go to one of ``backends``; ``protocol`` is IP's number.

    ``backends`` are sorted records (``record``), at least one and at most ``BACKENDS_MAX``. ``source`` is what clients
    are hidden behind where a backend's record says so; None if none does. ``affinity``: a client's address alone
    chooses the backend.
    """

    address: Address
    port: int
    protocol: int
    backends: bytes
    source: Address | None = None
    affinity: bool = False


Value = CnatSettings | CnatInterface | CnatHairpins | CnatHairpin | CnatTranslation

SETTINGS: Final = "vpp/cnat-settings/"
INTERFACE: Final = "vpp/cnat-interface/"
HAIRPINS: Final = "vpp/cnat-hairpins/"
HAIRPIN: Final = "vpp/cnat-hairpin/"
TRANSLATION: Final = "vpp/cnat-translation/"


def settings_key() -> str:
    """Key of CNAT itself: there is one."""
    return f"{SETTINGS}cnat"


def interface_key(interface: str) -> str:
    """Key of an interface's place among those whose clients are kept."""
    return f"{INTERFACE}{interface}"


def hairpins_key() -> str:
    """Key of the policy that hides those who reach themselves: there is one."""
    return f"{HAIRPINS}policy"


def hairpin_key(address: Address) -> str:
    """Key of one address's hairpin."""
    return f"{HAIRPIN}{address}"


def translation_key(address: Address, port: int, protocol: int) -> str:
    """Key of a translation."""
    return f"{TRANSLATION}{protocol}/{address}/{port}"


_KEY_OF: Final[dict[type[_Value], Callable[[Any], str]]] = {
    CnatSettings: lambda v: settings_key(),
    CnatInterface: lambda v: interface_key(v.interface),
    CnatHairpins: lambda v: hairpins_key(),
    CnatHairpin: lambda v: hairpin_key(v.address),
    CnatTranslation: lambda v: translation_key(v.address, v.port, v.protocol),
}


def key_of(value: Value) -> str:
    """The key that ``value`` stands under."""
    return _KEY_OF[type(value)](value)


def entry(value: Value) -> tuple[str, Value]:
    """``value`` with the key that it stands under."""
    return key_of(value), value


# ------------------------------------------------------------------ records of backends


class Backend(msgspec.Struct, frozen=True, gc=False):
    """Where connections end. ``hidden``: it sees ``CnatTranslation.source`` instead of the client."""

    address: Address
    port: int
    hidden: bool


def record(address: bytes, port: int, *, hidden: bool) -> bytes:
    """A backend's record: ``address`` of 4 or 16 bytes, the port in two, one that says whether clients are hidden."""
    return address + port.to_bytes(2, "big") + bytes((hidden,))


def record_size(version: int) -> int:
    """Bytes of a record of IP's version."""
    return 7 if version == 4 else 19


def backends(value: bytes, version: int) -> tuple[Backend, ...]:
    """Records read again."""
    size = record_size(version)
    return tuple(
        Backend(
            address=Address(4 if version == 4 else 6, int.from_bytes(value[at : at + size - 3], "big")),
            port=int.from_bytes(value[at + size - 3 : at + size - 1], "big"),
            hidden=bool(value[at + size - 1]),
        )
        for at in range(0, len(value), size)
    )
