"""Types of the compiled codec."""

from collections.abc import Callable
from typing import Any, Final

CONVERSIONS: Final[dict[str, int]]
KINDS: Final[dict[str, int]]
SHAPES: Final[dict[str, int]]
CONVERTED_SIZE: Final[dict[int, int]]
CONV_BOOL: Final[int]
CONV_ENUM: Final[int]

class MACAddress:
    packed: bytes
    def __init__(self, value: str | bytes | bytearray | memoryview | MACAddress) -> None: ...
    @property
    def mac_binary(self) -> bytes: ...
    @property
    def mac_string(self) -> str: ...
    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...

class Program:
    name: str
    names: list[str]
    index: dict[str, int]
    subs: list[Program | None]
    enums: list[Any]
    record: type[Any]
    fields: list[tuple[Any, ...]]
    largest: int
    msg_id_offset: int
    client_index_offset: int
    context_offset: int
    union: bool
    def __init__(
        self,
        name: str,
        fields: list[tuple[Any, ...]],
        *,
        union: bool = False,
        transparent: bool = False,
        packer: Callable[[Program, int, Any], bytes | None] | None = None,
    ) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def variable(self) -> bool: ...
    @property
    def default_image(self) -> bytes: ...
    def op(self, i: int) -> dict[str, Any]: ...
    def encode(
        self, msg_id: int, client_index: int, context: int, fields: dict[str, Any], *, framed: bool = False
    ) -> bytes: ...
    def encode_into(
        self,
        buffer: Any,
        offset: int,
        msg_id: int,
        client_index: int,
        context: int,
        fields: dict[str, Any],
    ) -> int: ...
    def decode(self, data: Any, *, raw: bool = False) -> Any: ...
    def measure(self, data: Any) -> int: ...

def pack_values(conv: int, size: int, values: list[Any]) -> bytes: ...
