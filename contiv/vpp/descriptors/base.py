"""What the descriptors of VPP objects share: the API they call, the index of interfaces, small conversions.

``Interfaces`` maps logical names to ``sw_if_index``; only the interface descriptor writes it, all others read it.
Tags in VPP say whose an object is: ``contiv:<logical name>``. Objects without that mark belong to somebody else and
are never touched.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from contiv.errors import VppError
from contiv.fastpath import Columns
from contiv.model.ip import Address, Network

OWNER: Final = "contiv:"
NO_INDEX: Final = 0xFFFFFFFF
"""VPP's ~0: no interface, every interface, or "choose one", by context."""
GONE: Final = frozenset(
    {"INVALID_SW_IF_INDEX", "INVALID_SW_IF_INDEX_2", "INVALID_INTERFACE", "NO_SUCH_ENTRY", "NO_SUCH_FIB",
     "NO_SUCH_TABLE", "ADDRESS_NOT_FOUND_FOR_INTERFACE", "NO_MATCHING_INTERFACE"}
)  # fmt: skip
"""VPP's answers to a removal that mean that there is nothing left to remove (vnet/error.h)."""

RX_MODE_INTERRUPT: Final = 2

T = TypeVar("T")


class Api(Protocol):
    """The part of ``contiv.vpp.client`` that descriptors use."""

    def call(self, name: str, /, **fields: Any) -> Awaitable[Any]:
        """One request, sent at once; its reply, or the error for a negative retval."""
        ...

    async def dump(self, name: str, /, **fields: Any) -> list[Any]:
        """All details of a dump, named without ``_dump``."""
        ...

    async def dump_many(self, name: str, /, *, timeout_s: float | None = None, **fields: Any) -> Columns:
        """The same as columns, for lists of thousands."""
        ...

    async def batch(
        self, requests: Sequence[tuple[str, Mapping[str, Any]]], /, *, return_errors: bool = False
    ) -> list[Any]:
        """Requests sent together, in order; their replies, or errors in their places."""
        ...

    async def call_many(self, name: str, columns: Mapping[str, Any], /, *, check: bool = True) -> Columns:
        """Requests of one kind from columns; their replies as columns."""
        ...

    def check(self, required: Iterable[str]) -> list[Any]:
        """Those of the messages that the VPP that runs does not have."""
        ...


class Interfaces:
    """Logical names of our interfaces and their ``sw_if_index`` in the VPP that runs now."""

    def __init__(self) -> None:
        self._index_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}

    def put(self, name: str, index: int) -> None:
        """Record that ``name`` has ``index`` now."""
        self.drop(name)
        self._index_of[name] = index
        self._name_of[index] = name

    def drop(self, name: str) -> None:
        """Forget ``name``."""
        index = self._index_of.pop(name, None)
        if index is not None and self._name_of.get(index) == name:
            del self._name_of[index]

    def replace(self, names: Mapping[str, int]) -> None:
        """Forget everything and take ``names`` instead, as a resync does."""
        self._index_of = dict(names)
        self._name_of = {index: name for name, index in names.items()}

    def index(self, name: str) -> int:
        """The ``sw_if_index`` of ``name``; VppError when VPP has no such interface of ours."""
        try:
            return self._index_of[name]
        except KeyError:
            raise VppError(f"interface {name} is not in VPP yet; it must be created first") from None

    def name(self, index: int) -> str | None:
        """The logical name behind ``index``; None when the interface is not ours."""
        return self._name_of.get(index)

    def items(self) -> Iterable[tuple[str, int]]:
        """All our interfaces."""
        return tuple(self._index_of.items())


async def remove(api: Api, name: str, /, **fields: Any) -> None:
    """Send a request that removes something; that it is gone already is a success."""
    try:
        await api.call(name, **fields)
    except VppError as error:
        if getattr(error, "name", "") not in GONE:
            raise


def use_interrupts(api: Api, index: int) -> Awaitable[Any]:
    """Have VPP woken by the kernel. TAP and AF_XDP it polls as it makes them, and its main thread is never idle."""
    return api.call(
        "sw_interface_set_rx_mode", sw_if_index=index, queue_id_valid=False, queue_id=0, mode=RX_MODE_INTERRUPT
    )


def lacks(api: Api, message: str) -> bool:
    """Whether VPP runs without the plugin of ``message``: then it holds none of the plugin's objects."""
    return bool(api.check((message,)))


def owned(tag: str) -> str | None:
    """The logical name in a tag of ours; None for a stranger's."""
    return tag[len(OWNER) :] if tag.startswith(OWNER) else None


def from_ip(value: Any) -> Address:
    """An address as the codec decodes it (``ipaddress`` objects) as ours."""
    return Address(value.version, int(value))


def from_interface(value: Any) -> Network:
    """An interface address or a network as the codec decodes it as ours, host bits kept."""
    address = getattr(value, "ip", None) or value.network_address
    network = getattr(value, "network", value)
    return Network(value.version, int(address), network.prefixlen)
