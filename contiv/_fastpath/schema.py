"""API definitions of a VPP: loading, normalising, looking up; compiled to programs message by message.

In: ``.api.json`` files, folders of them, parsed JSON, or the array of ``get_api_json``. Out: ``Schema`` with
``messages`` (what each message is) and ``encode``/``decode``. Definitions that several files repeat are kept once.
Nothing is compiled before it is used: a schema of a thousand messages loads in milliseconds.
Refuses definitions that contradict each other (two messages of one name and another CRC) or cannot be laid out.
Next: ``codec`` (the compiled programs), ``contiv.vpp.client`` (who talks with them).
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from contiv._fastpath import bulk, codec
from contiv._fastpath.errors import EncodeError, SchemaError

SCALARS: Final = {
    "u8": 1,
    "i8": 1,
    "u16": 2,
    "i16": 2,
    "u32": 4,
    "i32": 4,
    "u64": 8,
    "i64": 8,
    "f64": 8,
    "bool": 1,
}
# schemas kept by content: a process talks to one VPP, tests to a few
SCHEMA_CACHE_SIZE: Final = 8
# numbers of one enum whose member is kept; VPP's combinations are few, an attacker's are not
ENUM_CACHE_SIZE: Final = 1024

Source = str | bytes | os.PathLike[str] | Iterable[Any]
MessageKind = Literal["request", "dump", "get", "reply", "details", "event", "message"]


class Record(Protocol):
    """A decoded message or nested type: a named tuple with the schema's field names."""

    _fields: tuple[str, ...]

    def __getattr__(self, name: str) -> Any: ...
    def __getitem__(self, index: int) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def _asdict(self) -> dict[str, Any]: ...
    def _replace(self, **fields: Any) -> Record: ...


class Field(msgspec.Struct, frozen=True):
    """One field: ``array`` is None (one value), a count, ``"length_field"`` of a variable array, or 0 for a string
    of variable length."""

    name: str
    type: str
    array: int | str | None = None
    default: bool | int | float | str | None = None
    limit: int | None = None
    case: str | None = None
    discriminator: str | None = None


class Message(msgspec.Struct, frozen=True):
    """What is known of one message without compiling it.

    ``kind`` request (one reply), dump (details until a control ping's reply), get (details, then a reply with a
    cursor), reply, details, event, or message when no service names it. ``reply`` and ``stream`` name what comes
    back; ``context_offset`` is None for messages without a context (events).
    """

    name: str
    crc: str
    fields: tuple[Field, ...]
    kind: MessageKind
    reply: str | None = None
    stream: str | None = None
    events: tuple[str, ...] = ()
    context_offset: int | None = None
    options: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Name and CRC as VPP's message table has them."""
        return f"{self.name}_{self.crc}"


class Lack(msgspec.Struct, frozen=True):
    """A message that a VPP lacks or has with another CRC (``found`` is then what it has)."""

    name: str
    wanted: str | None
    found: str | None

    def __str__(self) -> str:
        if self.found is None:
            return f"lacks {self.name}"
        return f"has {self.name} with CRC {self.found} instead of {self.wanted}"


class EnumType:
    """An enum or a set of flags: numbers to members and names to numbers.

    ``cls`` is an IntFlag for both, as in vpp_papi: VPP's files declare sets of flags as plain enums in many places
    (``if_status_flags``), so that a number may be a combination of members anywhere.
    """

    def __init__(self, name: str, members: list[tuple[str, int]], *, base: str) -> None:
        make: Any = enum.IntFlag
        self.cls: type[enum.IntFlag] = make(name, members)
        self.base = base
        self._by_name = dict(members)
        self.members: dict[int, enum.IntFlag] = {int(m): m for m in self.cls.__members__.values()}

    def member(self, number: int) -> enum.IntFlag:
        """The member, or combination of members, of this number."""
        found = self.members.get(number)
        if found is None:
            found = self.cls(number)
            if len(self.members) < ENUM_CACHE_SIZE:
                self.members[number] = found
        return found

    def number(self, text: str) -> int:
        """The number that a member's name, or names joined with ``|``, stands for. EncodeError."""
        total = 0
        for name in text.split("|"):
            if name.strip() not in self._by_name:
                raise EncodeError(f"no member {name!r}; members are {', '.join(self._by_name)}")
            total |= self._by_name[name.strip()]
        return total


def _options(definition: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    options: dict[str, Any] = {}
    for item in definition:
        if isinstance(item, dict):
            options |= item
    return [item for item in definition if not isinstance(item, dict)], options


def _default(value: object) -> Any:
    """A default as it should have been written: generators emit both ``false`` and ``"true"``."""
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    return value


def parse_field(definition: object, *, owner: str) -> Field:
    """``[type, name, count?, length_field?, options?]`` as a Field. SchemaError."""
    if not isinstance(definition, list):
        raise SchemaError(f"{owner}: {definition!r} is no field")
    parts, options = _options(definition)
    match parts:
        case [str(kind), str(name)]:
            array: int | str | None = None
        case [str(kind), str(name), int(count)] if count >= 0:
            array = count
        case [str(kind), str(name), 0, str(length_field)]:
            array = length_field
        case _:
            raise SchemaError(f"{owner}: {definition!r} is no field")
    if array == 0 and kind != "string":
        raise SchemaError(f"{owner}.{name}: array of no stated length")
    return Field(
        name,
        kind,
        array,
        _default(options.get("default")),
        options.get("limit"),
        options.get("case"),
        options.get("discriminator"),
    )


class Messages(Mapping[str, Message]):
    """All messages of a schema by name; each is read when it is first asked for."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._known: dict[str, Message] = {}

    def __getitem__(self, name: str) -> Message:
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._schema._message(name)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._schema._messages

    def __iter__(self) -> Iterator[str]:
        return iter(self._schema._messages)

    def __len__(self) -> int:
        return len(self._schema._messages)


class Schema:
    """Messages of one VPP. Make it with ``Schema.load``."""

    def __init__(self, definitions: Iterable[Mapping[str, Any]]) -> None:
        self._messages: dict[str, list[Any]] = {}
        self._types: dict[str, tuple[str, Any]] = {}
        self._services: dict[str, dict[str, Any]] = {}
        self._programs: dict[str, codec.Program] = {}
        self._type_programs: dict[str, codec.Program] = {}
        self._enums: dict[str, EnumType] = {}
        self._open: set[str] = set()
        self._layouts: dict[str, bulk.Layout] = {}
        for definition in definitions:
            self._add(definition)
        self._answers = self._index_services()
        self.messages: Mapping[str, Message] = Messages(self)

    @classmethod
    def load(cls, source: Source) -> Schema:
        """The schema of ``source``: a folder or file of ``.api.json`` (path), a JSON text (one object or an array),
        or parsed definitions. Equal content gives the same object. SchemaError."""
        texts = _texts(source)
        if texts is None:
            return cls(source)  # type: ignore[arg-type]
        return _load_texts(cls, tuple(sorted(set(texts))))

    def _add(self, definition: Mapping[str, Any]) -> None:
        if not isinstance(definition, Mapping):
            raise SchemaError(f"{type(definition).__name__} is no API definition")
        try:
            for kind in ("enums", "enumflags", "unions", "types"):
                for entry in definition.get(kind, ()):
                    self._types.setdefault(f"vl_api_{entry[0]}_t", (kind, entry[1:]))
            for name, alias in definition.get("aliases", {}).items():
                self._types.setdefault(f"vl_api_{name}_t", ("aliases", alias))
            self._services |= definition.get("services", {})
            for entry in definition.get("messages", ()):
                known = self._messages.setdefault(entry[0], entry)
                if known is not entry and _crc(known) != _crc(entry):
                    raise SchemaError(f"message {entry[0]} is defined with CRC {_crc(known)} and {_crc(entry)}")
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise SchemaError(f"malformed API definition: {error!r}") from None

    def _index_services(self) -> dict[str, MessageKind]:
        answers: dict[str, MessageKind] = {}
        for service in self._services.values():
            if not isinstance(service, dict):
                raise SchemaError(f"{service!r} is no service")
            for event in service.get("events", ()):
                answers[event] = "event"
            if "stream_msg" in service:
                answers[service["stream_msg"]] = "details"
            reply = service.get("reply")
            if reply is not None:
                plain = service.get("stream") and "stream_msg" not in service
                answers[reply] = "details" if plain else "reply"
        return answers

    def _message(self, name: str) -> Message:
        entry = self._messages[name]
        parts, options = _options(entry[1:])
        fields = tuple(parse_field(part, owner=name) for part in parts)
        service = self._services.get(name, {})
        reply, stream = service.get("reply"), service.get("stream_msg")
        kind = self._answers.get(name, "message")
        if service:
            kind = ("get" if stream else "dump") if service.get("stream") else "request"
        if kind == "dump":
            reply, stream = None, reply
        return Message(
            name,
            _crc(entry),
            fields,
            kind,
            reply,
            stream,
            tuple(service.get("events", ())),
            self._context_offset(fields),
            options.get("options", {}),
        )

    def _context_offset(self, fields: tuple[Field, ...]) -> int | None:
        offset = 0
        for field in fields:
            if field.name == "context" and field.type == "u32":
                return offset
            if field.array is not None or field.type not in SCALARS:
                return None  # the header is made of scalars; a context behind anything else is no context
            offset += SCALARS[field.type]
        return None

    # -- types ------------------------------------------------------------------------------------------------------

    def enum(self, name: str) -> type[enum.IntFlag]:
        """The enum class of a type, ``vl_api_address_family_t`` or short ``address_family``. KeyError."""
        full = name if name in self._types else f"vl_api_{name}_t"
        if self._types[full][0] not in {"enums", "enumflags"}:
            raise KeyError(name)
        return self._enum(full).cls

    @property
    def enum_names(self) -> list[str]:
        """Names of all enum types."""
        return [name for name, (kind, _) in self._types.items() if kind in {"enums", "enumflags"}]

    def type_definition(self, name: str) -> tuple[str, Any]:
        """``(family, body)`` of a type as it is defined; family is the key that it stands under. KeyError."""
        return self._types[name if name in self._types else f"vl_api_{name}_t"]

    def type_fields(self, name: str) -> tuple[Field, ...]:
        """Fields of a struct, arms of a union. KeyError."""
        family, body = self.type_definition(name)
        if family not in {"types", "unions"}:
            raise KeyError(name)
        return tuple(parse_field(part, owner=name) for part in _options(body)[0])

    def _enum(self, name: str) -> EnumType:
        found = self._enums.get(name)
        if found is None:
            _, body = self._types[name]
            members, options = _options(body)
            try:
                pairs = [(str(member[0]), int(member[1])) for member in members]
                base = str(options.get("enumtype", "u32"))
                found = EnumType(name, pairs, base=base)
            except (TypeError, ValueError, IndexError) as error:
                raise SchemaError(f"enum {name}: {error}") from None
            if base not in SCALARS:
                raise SchemaError(f"enum {name}: no base type {base!r}")
            self._enums[name] = found
        return found

    def _resolve(self, field: Field, *, owner: str) -> tuple[Any, ...]:
        """``field`` as the tuple that codec.Program takes."""
        kind, size, conv, sub, members = self._resolve_type(field.type, owner=f"{owner}.{field.name}")
        shape, count, length_field = "one", 0, None
        if field.type == "string":
            if field.array is None or isinstance(field.array, str):
                raise SchemaError(f"{owner}.{field.name}: string without a size")
            shape, size = ("one", field.array) if field.array else ("vstring", field.limit or 0)
        elif isinstance(field.array, str):
            shape, length_field = "vla", field.array
        elif field.array is not None and field.type == "u8":
            kind, size = "bytes", field.array
        elif field.array is not None:
            shape, count = "fixed", field.array
        return (
            field.name,
            codec.KINDS[kind],
            codec.SHAPES[shape],
            conv,
            size,
            count,
            length_field,
            field.default,
            sub,
            members,
        )

    def _resolve_type(self, name: str, *, owner: str) -> tuple[str, int, int, Any, Any]:
        """``(kind, size, conversion, program, enum)`` of a type name."""
        if name in SCALARS:
            return name, SCALARS[name], codec.CONV_BOOL if name == "bool" else 0, None, None
        if name == "string":
            return "string", 0, 0, None, None
        if name not in self._types:
            raise SchemaError(f"{owner}: unknown type {name}")
        kind, body = self._types[name]
        if kind in {"enums", "enumflags"}:
            members = self._enum(name)
            return members.base, SCALARS[members.base], codec.CONV_ENUM, None, members
        if kind == "aliases":
            return self._resolve_alias(name, body, owner=owner)
        program = self._type_program(name, kind, body)
        return (
            "union" if program.union else "struct",
            program.size,
            _conversion(name, program.size),
            program,
            None,
        )

    def _resolve_alias(self, name: str, body: Mapping[str, Any], *, owner: str) -> tuple[str, int, int, Any, Any]:
        base, length = str(body["type"]), body.get("length")
        if length is None:
            kind, size, conv, sub, members = self._resolve_type(base, owner=owner)
            return kind, size, _conversion(name, size) or conv, sub, members
        if base == "u8":
            return "bytes", length, _conversion(name, length), None, None
        program = self._type_programs.get(name)
        if program is None:
            field = self._resolve(Field("value", base, length), owner=name)
            program = codec.Program(name, [field], transparent=True)
            self._type_programs[name] = program
        return "struct", program.size, 0, program, None

    def _type_program(self, name: str, kind: str, body: list[Any]) -> codec.Program:
        program = self._type_programs.get(name)
        if program is None:
            if name in self._open:
                raise SchemaError(f"type {name} contains itself")
            self._open.add(name)
            try:
                program = self._compile(name, body, union=kind == "unions")
            finally:
                self._open.discard(name)
            self._type_programs[name] = program
        return program

    def _compile(self, name: str, body: list[Any], *, union: bool = False) -> codec.Program:
        parts, _ = _options(body)
        fields = [self._resolve(parse_field(part, owner=name), owner=name) for part in parts]
        return codec.Program(name, fields, union=union, packer=bulk.pack_array)

    # -- messages ---------------------------------------------------------------------------------------------------

    def program(self, name: str) -> codec.Program:
        """The compiled program of a message. KeyError when there is no such message, SchemaError."""
        found = self._programs.get(name)
        if found is None:
            found = self._programs[name] = self._compile(name, self._messages[name][1:])
        return found

    def type_program(self, name: str) -> codec.Program:
        """The compiled program of a struct or union type, ``vl_api_prefix_t`` or short ``prefix``. KeyError."""
        full = name if name in self._types else f"vl_api_{name}_t"
        kind, body = self._types[full]
        if kind not in {"types", "unions"}:
            raise KeyError(name)
        return self._type_program(full, kind, body)

    def encode(self, name: str, /, *, msg_id: int = 0, client_index: int = 0, context: int = 0, **fields: Any) -> bytes:
        """The message ``name`` as bytes (without the socket's frame). EncodeError names the field."""
        return self.program(name).encode(msg_id, client_index, context, fields)

    def encode_into(
        self,
        buffer: Any,
        name: str,
        /,
        *,
        offset: int = 0,
        msg_id: int = 0,
        client_index: int = 0,
        context: int = 0,
        **fields: Any,
    ) -> int:
        """Write the message into a writable buffer; the offset behind it comes back. EncodeError."""
        return self.program(name).encode_into(buffer, offset, msg_id, client_index, context, fields)

    def decode(self, name: str, data: Any, *, raw: bool = False) -> Record:
        """The record in ``data``. ``raw`` keeps addresses and times as bytes and numbers. DecodeError."""
        record: Record = self.program(name).decode(data, raw=raw)
        return record

    # -- many at once -----------------------------------------------------------------------------------------------

    def layout(self, name: str) -> bulk.Layout:
        """The flat layout of a message: its dtype and that of its array's elements. KeyError, SchemaError."""
        found = self._layouts.get(name)
        if found is None:
            found = self._layouts[name] = bulk.layout_of(self.program(name))
        return found

    def dtype(self, name: str) -> np.dtype[Any]:
        """The numpy dtype of a struct type's bytes on the wire, ``acl_rule`` or ``vl_api_acl_rule_t``. KeyError."""
        return bulk.dtype_of(self.type_program(name))

    def array(self, name: str, n: int) -> NDArray[Any]:
        """``n`` packed records of a struct type with their defaults: what a variable array takes as it stands."""
        program = self.type_program(name)
        return bulk.filled(bulk.dtype_of(program), program.default_image, n)

    def encode_many(self, name: str, columns: Mapping[str, Any], **options: Any) -> NDArray[np.uint8]:
        """``n`` messages from columns, behind one another; options as in ``bulk.encode_many``. EncodeError."""
        return bulk.encode_many(self.layout(name), columns, **options)

    def decode_many(self, name: str, messages: Sequence[bytes]) -> bulk.Columns:
        """Columns of messages of one name. DecodeError."""
        return bulk.decode_many(self.layout(name), messages)

    def check(self, required: Mapping[str, str | None] | Iterable[str]) -> list[Lack]:
        """What this schema lacks of ``required``: message names, with the wanted CRC or None for any."""
        wanted = dict(required) if isinstance(required, Mapping) else dict.fromkeys(required)
        lacks = []
        for name, crc in wanted.items():
            found = _crc(self._messages[name]) if name in self._messages else None
            if found is None or (crc is not None and crc.removeprefix("0x") != found):
                lacks.append(Lack(name, crc, found))
        return lacks

    def __repr__(self) -> str:
        return f"<Schema: {len(self._messages)} messages, {len(self._types)} types>"


def _conversion(name: str, size: int) -> int:
    conversion = int(codec.CONVERSIONS.get(name, 0))
    return conversion if codec.CONVERTED_SIZE.get(conversion) == size else 0


def _crc(entry: list[Any]) -> str:
    _, options = _options(entry[1:])
    crc = options.get("crc")
    if not isinstance(crc, str):
        raise SchemaError(f"message {entry[0]} has no CRC")
    return crc.removeprefix("0x")


def _texts(source: Source) -> list[bytes] | None:
    """The JSON texts that ``source`` names, or None when it is already parsed."""
    if isinstance(source, str) and source.lstrip()[:1] in {"[", "{"}:
        return [source.encode()]
    if isinstance(source, bytes):
        return [source]
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source)
    files = sorted(path.rglob("*.api.json")) if path.is_dir() else [path]
    if not files:
        raise SchemaError(f"{path}: holds no .api.json file")
    try:
        return [file.read_bytes() for file in files]
    except OSError as error:
        raise SchemaError(f"{path}: {error.strerror}") from error


_BY_CONTENT: dict[bytes, Schema] = {}


def _load_texts(cls: type[Schema], texts: tuple[bytes, ...]) -> Schema:
    digest = hashlib.sha256(b"\0".join(texts)).digest()
    found = _BY_CONTENT.get(digest)
    if found is None:
        definitions: list[Any] = []
        for text in texts:
            try:
                parsed = msgspec.json.decode(text)
            except msgspec.DecodeError as error:
                raise SchemaError(f"API definitions are no JSON: {error}") from None
            definitions += parsed if isinstance(parsed, list) else [parsed]
        found = cls(definitions)
        while len(_BY_CONTENT) >= SCHEMA_CACHE_SIZE:
            del _BY_CONTENT[next(iter(_BY_CONTENT))]
        _BY_CONTENT[digest] = found
    return found
