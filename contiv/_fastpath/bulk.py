"""Many messages in one call: numpy columns to bytes, bytes to columns.

A message's bytes are described by a numpy dtype with VPP's byte order (``dtype_of``), so that a column is assigned
with one strided copy and read as a view. Names of columns are the paths of fields: ``route.prefix.len``,
``route.paths.sw_if_index``. Addresses, prefixes and MACs may be given whole: an array of u32 (IPv4), of shape
``(n, 16)`` (IPv6), ``(addresses, lengths)`` for prefixes, or a list of what ``encode`` takes.
Refuses messages whose array has elements of variable size (none in VPP 26.06): ``SchemaError``; use ``encode``.
Next: ``contiv._fastpath.arrays`` (ragged joins and splits in C).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from contiv._fastpath import arrays, codec
from contiv._fastpath.errors import DecodeError, EncodeError, SchemaError

DTYPES: Final = {
    "u8": ">u1",
    "i8": ">i1",
    "u16": ">u2",
    "i16": ">i2",
    "u32": ">u4",
    "i32": ">i4",
    "u64": ">u8",
    "i64": ">i8",
    "f64": "=f8",
    "bool": "?",
}
FRAME: Final = 16
# path of the length of a string of variable length, which has no field of its own in the API
LENGTH: Final = "#length"

Array = NDArray[Any]


def field_dtype(program: codec.Program, index: int) -> np.dtype[Any]:
    """The dtype of one element of a field."""
    op = program.op(index)
    kind, size = op["kind"], op["size"]
    if kind in DTYPES:
        return np.dtype(DTYPES[kind])
    if kind == "bytes":
        return np.dtype((np.uint8, (size,)))
    if kind == "string":
        return np.dtype(f"S{size}")
    sub = program.subs[index]
    assert sub is not None
    return dtype_of(sub)


_DTYPES: dict[int, tuple[codec.Program, np.dtype[Any]]] = {}


def dtype_of(program: codec.Program) -> np.dtype[Any]:
    """The dtype of a program's fixed part; arms of a union overlap."""
    known = _DTYPES.get(id(program))
    if known is not None and known[0] is program:
        return known[1]
    names, formats, offsets = [], [], []
    for index, name in enumerate(program.names):
        op = program.op(index)
        if op["offset"] >= program.size and program.variable and index == len(program.names) - 1:
            continue
        names.append(name)
        one = field_dtype(program, index)
        formats.append(np.dtype((one, (op["count"],))) if op["shape"] == "fixed" else one)
        offsets.append(op["offset"])
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": program.size})
    _DTYPES[id(program)] = (program, dtype)
    return dtype


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """A message laid flat: its fixed part with that of a nested tail, and the array at its end.

    ``tail`` is the path of the array (None without one), ``count`` the path of its counter.
    """

    name: str
    dtype: Any
    image: bytes
    tail: str | None
    element: Any
    element_image: bytes
    count: str | None
    kernel: Any


def layout_of(program: codec.Program) -> Layout:
    """The flat layout of a message. SchemaError when its size cannot be told from one counter."""
    image, kernel = program.default_image, (0, 0, 0)
    parts: list[tuple[str, codec.Program, int]] = [("", program, 0)]
    tail = count = element = None
    element_image, prefix, inner = b"", "", program
    while inner.variable:
        index = len(inner.names) - 1
        op, sub = inner.op(index), inner.subs[index]
        path = prefix + inner.names[index]
        if op["shape"] == "one" and sub is not None:
            parts.append((path, sub, len(image)))
            image += sub.default_image
            prefix, inner = f"{path}.", sub
            continue
        if op["shape"] == "vstring":
            # its length stands in front of the characters: one more field of the flat fixed part
            tail, element, element_image, count = path, np.dtype(">u1"), b"\0", LENGTH
            kernel = (1, len(image), codec.KINDS["u32"])
            image += bytes(4)
            break
        if op["shape"] != "vla" or (sub is not None and sub.variable):
            raise SchemaError(f"{program.name}.{path}: of a variable size that columns cannot express")
        base = len(image) - inner.size
        tail, element = path, field_dtype(inner, index)
        element_image = sub.default_image if sub is not None else bytes(op["size"])
        length = next(n for i, n in enumerate(inner.names[:-1]) if inner.op(i)["offset"] == op["length_offset"])
        count = prefix + length
        kernel = (op["size"], base + op["length_offset"], codec.KINDS[op["length_kind"]])
        break
    return Layout(
        name=program.name,
        dtype=_nested(parts, len(image)) if count != LENGTH else _with_length(_nested(parts, len(image) - 4)),
        image=image,
        tail=tail,
        element=element,
        element_image=element_image,
        count=count,
        kernel=arrays.Layout(len(image), *kernel),
    )


def _with_length(dtype: np.dtype[Any]) -> np.dtype[Any]:
    fields: Mapping[str, Any] = dtype.fields or {}
    names = list(dtype.names or ())
    return np.dtype(
        {
            "names": [*names, LENGTH],
            "formats": [*(fields[name][0] for name in names), np.dtype(">u4")],
            "offsets": [*(fields[name][1] for name in names), dtype.itemsize],
            "itemsize": dtype.itemsize + 4,
        }
    )


def _nested(parts: list[tuple[str, codec.Program, int]], size: int) -> np.dtype[Any]:
    """One dtype of a message whose last field is a struct behind its fixed part, and so on."""
    path, program, offset = parts[-1]
    dtype = dtype_of(program)
    for outer_path, outer, outer_offset in reversed(parts[:-1]):
        own = dtype_of(outer)
        names = [*(own.names or ()), path.removeprefix(f"{outer_path}." if outer_path else "")]
        fields: Mapping[str, Any] = own.fields or {}
        dtype = np.dtype(
            {
                "names": names,
                "formats": [*(fields[name][0] for name in own.names or ()), dtype],
                "offsets": [*(fields[name][1] for name in own.names or ()), offset - outer_offset],
                "itemsize": size - outer_offset,
            }
        )
        path, offset = outer_path, outer_offset
    return dtype


def filled(dtype: np.dtype[Any], image: bytes, shape: int | tuple[int, ...]) -> Array:
    """An array of ``dtype`` with the defaults in every place."""
    out = np.empty(shape, dtype)
    out.view(np.dtype((np.void, dtype.itemsize)))[...] = np.void(image)
    return out


def place(target: Array, path: str, value: Any) -> None:
    """Assign a column. ``target`` is a structured array, ``path`` a field's path in it. EncodeError."""
    head, _, rest = path.partition(".")
    if head not in (target.dtype.names or ()):
        raise EncodeError(f"no field {head!r}; fields are {', '.join(target.dtype.names or ())}", path=path)
    view = target[head]
    if rest:
        place(view, rest, value)
        return
    try:
        if view.dtype.names is not None:
            _place_struct(view, value)
        elif view.dtype == np.uint8 and view.ndim == target.ndim + 1:
            view[...] = _octets(value, view.shape[-1])
        else:
            view[...] = _numbers(value, view.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise EncodeError(str(error), path=path) from None


def _numbers(value: Any, dtype: np.dtype[Any]) -> Any:
    """``value`` checked for the range of ``dtype``: numpy's own assignment would wrap."""
    given = np.asarray(value)
    if dtype.kind in "iu" and given.dtype.kind in "iuf" and given.size:
        if given.dtype.kind == "f":
            raise ValueError("integers expected")
        info = np.iinfo(dtype)
        if given.dtype.itemsize > dtype.itemsize or given.dtype.kind != dtype.kind:
            low, high = int(given.min()), int(given.max())
            if low < info.min or high > info.max:
                raise OverflowError(f"{low if low < info.min else high} is not in {info.min}..{info.max}")
    return given


def _octets(value: Any, size: int) -> Array:
    """Bytes of addresses: integers (IPv4), arrays of bytes, or a list of what encode takes."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.dtype.itemsize > 1 and size == 4:
        return np.ascontiguousarray(_numbers(value, np.dtype(">u4")), ">u4").view(np.uint8).reshape(*value.shape, 4)
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, bytes):
        return np.frombuffer(value.ljust(size, b"\0"), np.uint8)
    if not isinstance(value, list | tuple):
        value = [value]
    kinds = {4: "vl_api_ip4_address_t", 16: "vl_api_ip6_address_t", 6: "vl_api_mac_address_t"}
    packed = codec.pack_values(codec.CONVERSIONS.get(kinds.get(size, ""), 0), size, list(value))
    return np.frombuffer(packed, np.uint8).reshape(-1, size)


def _place_struct(view: Array, value: Any) -> None:
    names = set(view.dtype.names or ())
    if isinstance(value, np.ndarray) and value.dtype.names is not None:
        _place_records(view, value)
    elif names == {"af", "un"}:
        _place_address(view, value)
    elif names == {"address", "len"}:
        _place_prefix(view, value)
    elif isinstance(value, Mapping):
        for name, column in value.items():
            place(view, name, column)
    else:
        raise EncodeError(f"columns of {', '.join(sorted(names))} expected, got {type(value).__name__}")


def _place_records(view: Array, value: Array) -> None:
    if value.dtype == view.dtype:
        view[...] = value
        return
    for name in value.dtype.names or ():
        place(view, name, value[name])


def _place_address(view: Array, value: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
        six = value.dtype == np.uint8 and value.shape[-1:] == (16,)
        view["af"] = 1 if six else 0
        view["un"]["ip6" if six else "ip4"] = _octets(value, 16 if six else 4)
        return
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    packed = codec.pack_values(codec.CONVERSIONS["vl_api_address_t"], 17, values)
    view[...] = np.frombuffer(packed, np.uint8).view(np.dtype((np.void, 17))).view(view.dtype)


def _place_prefix(view: Array, value: Any) -> None:
    if isinstance(value, tuple) and len(value) == 2:
        place(view, "address", value[0])
        place(view, "len", value[1])
        return
    kinds = {18: "vl_api_prefix_t", 17: "vl_api_ip6_prefix_t", 5: "vl_api_ip4_prefix_t"}
    size = view.dtype.itemsize
    values = list(value) if isinstance(value, list | np.ndarray) else [value]
    packed = codec.pack_values(codec.CONVERSIONS[kinds[size]], size, values)
    view[...] = np.frombuffer(packed, np.uint8).view(np.dtype((np.void, size))).view(view.dtype)


def length_of(columns: Mapping[str, Any], n: int | None = None) -> int:
    """How many messages the columns describe. EncodeError when none of them says."""
    if n is not None:
        return n
    for value in columns.values():
        first = value[0] if isinstance(value, tuple) and value else value
        if isinstance(first, Ragged):
            return len(first.counts)
        if isinstance(first, np.ndarray) and first.ndim:
            return len(first)
        if isinstance(first, list):
            return len(first)
    raise EncodeError("no column has a length; give n")


class Ragged(msgspec.Struct, frozen=True):
    """A variable array whose length differs from message to message: all elements in one structured array, and how
    many belong to each message."""

    elements: Any
    counts: Any


def encode_many(
    layout: Layout,
    columns: Mapping[str, Any],
    *,
    n: int | None = None,
    msg_id: int = 0,
    client_index: int = 0,
    contexts: Any = 0,
    framed: bool = False,
) -> Array:
    """All messages behind one another as an array of bytes. EncodeError."""
    own = {path: value for path, value in columns.items() if not _of_tail(layout, path)}
    tails = {path: value for path, value in columns.items() if _of_tail(layout, path)}
    try:
        count = length_of(columns, n)
        elements, per_message = _elements(layout, tails, count)
        header = {"_vl_msg_id": msg_id, "client_index": client_index, "context": contexts}
        names = layout.dtype.names or ()
        head = {name: value for name, value in header.items() if name in names}
        if isinstance(per_message, np.ndarray):
            fixed = filled(layout.dtype, layout.image, count)
            _place_all(fixed, {**head, **own}, layout.count, per_message)
            raw = fixed.view(np.uint8).reshape(count, layout.dtype.itemsize)
            flat = np.ascontiguousarray(elements).view(np.uint8).reshape(-1)
            return arrays.join(layout.kernel, raw, flat, per_message.astype(np.uint32), framed)
        return _encode_uniform(layout, {**head, **own}, elements, (count, per_message), framed=framed)
    except EncodeError as error:
        error.message = layout.name
        raise


def _of_tail(layout: Layout, path: str) -> bool:
    return layout.tail is not None and (path == layout.tail or path.startswith(f"{layout.tail}."))


def _elements(layout: Layout, tails: Mapping[str, Any], n: int) -> tuple[Any, Any]:
    """Elements and how many each message has: an array ``(n, k)`` with k, or a ragged one with an array of counts."""
    if not tails:
        return None, 0
    whole = tails.get(layout.tail or "")
    if layout.element.itemsize == 1 and isinstance(whole, list | tuple):
        parts = [part.encode("ascii") if isinstance(part, str) else bytes(part) for part in whole]
        whole = Ragged(np.frombuffer(b"".join(parts), np.uint8), np.array([len(part) for part in parts]))
    if isinstance(whole, Ragged):
        elements = whole.elements
        if elements.dtype != layout.element and layout.element.names is None:
            elements = _numbers(elements, layout.element).astype(layout.element)
        elif elements.dtype != layout.element:
            elements = filled(layout.element, layout.element_image, len(whole.elements))
            _place_struct(elements, whole.elements)
        return elements, np.asarray(whole.counts)
    if whole is not None and not isinstance(whole, Mapping):
        value = np.asarray(whole)
        k = value.shape[1] if value.ndim > 1 else 1
        return {"": value.reshape(n, k)}, k
    columns = dict(whole) if isinstance(whole, Mapping) else {}
    columns |= {path.removeprefix(f"{layout.tail}."): value for path, value in tails.items() if path != layout.tail}
    k = max(
        (
            value.shape[1]
            for value in columns.values()
            if isinstance(value, np.ndarray) and value.ndim > 1 and value.dtype != np.uint8
        ),
        default=1,
    )
    return columns, k


def _encode_uniform(
    layout: Layout, own: Mapping[str, Any], elements: Any, shape: tuple[int, int], *, framed: bool
) -> Array:
    n, k = shape
    size = layout.dtype.itemsize
    formats, offsets, names = [layout.dtype], [FRAME if framed else 0], ["message"]
    if k:
        names.append("tail")
        formats.append(np.dtype((layout.element, (k,))))
        offsets.append(offsets[0] + size)
    total = offsets[0] + size + (layout.element.itemsize * k if k else 0)
    image = b"" if not framed else bytes(8) + (total - FRAME).to_bytes(4, "big") + bytes(4)
    image += layout.image + layout.element_image * k
    dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": total})
    out = filled(dtype, image, n)
    _place_all(out["message"], own, layout.count, k)
    if k:
        target = out["tail"]
        for path, value in elements.items():
            if path == "":
                _place_elements(target, value)
            else:
                shaped = isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.names is None
                place(target, path, value[:, None] if shaped else value)
    return out.view(np.uint8).reshape(-1)


def _place_elements(target: Array, value: Array) -> None:
    if target.dtype.names is not None:
        _place_records(target, value)
    else:
        target[...] = _numbers(value, target.dtype)


def _place_all(target: Array, columns: Mapping[str, Any], count: str | None, counts: Any) -> None:
    for path, value in columns.items():
        place(target, path, value)
    if count is not None and count not in columns:
        place(target, count, counts)


def pack_array(program: codec.Program, index: int, value: Any) -> bytes:
    """A numpy array as the elements of a message's variable array: at the cost of a copy when it has the wire's dtype
    (``dtype_of``), else column by column."""
    dtype = field_dtype(program, index)
    if value.dtype == dtype:
        return bytes(value.tobytes())
    sub = program.subs[index]
    if value.dtype.names is None or sub is None:
        if dtype.names is not None:
            raise EncodeError(f"structured array of {', '.join(dtype.names)} expected")
        return bytes(_numbers(value, dtype).astype(dtype).tobytes())
    out = filled(dtype, sub.default_image, len(value))
    _place_records(out, value)
    return bytes(out.tobytes())


class Columns(Mapping[str, Any]):
    """Messages as columns: ``columns["route.prefix.len"]`` is an array with one value a message, in native byte order;
    of the variable array, one value an element (``counts`` says how many each message has)."""

    def __init__(self, layout: Layout, fixed: Array, counts: NDArray[np.uint32], tails: Array) -> None:
        self.layout = layout
        self.fixed = fixed.reshape(-1).view(layout.dtype)
        self.counts = counts
        self.elements = tails.view(layout.element) if layout.tail is not None else None
        self._known: dict[str, Any] = {}

    def __getitem__(self, path: str) -> Any:
        found = self._known.get(path)
        if found is None:
            found = self._known[path] = self._column(path)
        return found

    def _column(self, path: str) -> Any:
        view: Any = self.fixed
        tail = self.layout.tail
        if tail is not None and self.elements is not None and (path == tail or path.startswith(f"{tail}.")):
            view = self.elements
            path = path.removeprefix(tail).removeprefix(".")
        for name in path.split(".") if path else ():
            if name not in (view.dtype.names or ()):
                raise KeyError(path)
            view = view[name]
        if view.dtype.kind == "V":
            return view
        return np.ascontiguousarray(view, view.dtype.newbyteorder("="))

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the elements of each message begin in the element columns; one more entry than messages."""
        out = np.zeros(len(self.counts) + 1, np.int64)
        np.cumsum(self.counts, out=out[1:])
        return out

    def __iter__(self) -> Iterator[str]:
        return iter(_paths(self.layout))

    def __len__(self) -> int:
        return len(_paths(self.layout))

    @property
    def n(self) -> int:
        """How many messages."""
        return len(self.fixed)


def _paths(layout: Layout) -> list[str]:
    def walk(dtype: np.dtype[Any], prefix: str) -> Iterator[str]:
        for name in dtype.names or ():
            inner = dtype[name]
            if inner.names is None:
                yield prefix + name
            else:
                yield from walk(inner, f"{prefix}{name}.")

    paths = list(walk(layout.dtype, ""))
    if layout.tail is not None and layout.element.names is not None:
        paths += walk(layout.element, f"{layout.tail}.")
    elif layout.tail is not None:
        paths.append(layout.tail)
    return paths


def decode_many(layout: Layout, messages: Sequence[bytes]) -> Columns:
    """Columns of messages of one kind. DecodeError names the message that ends too early."""
    try:
        return Columns(layout, *arrays.split(layout.kernel, list(messages)))
    except arrays.Truncated as error:
        raise DecodeError(f"{layout.name} number {error.index}", error.size) from None
