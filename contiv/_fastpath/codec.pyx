# cython: binding=True
"""Python values to VPP's bytes and back, over ``csrc/codec.h``.

``Program`` is one compiled message or type. Encoding copies the image of its defaults and writes the given values
over it; a field that is not given costs nothing. Decoding measures the bytes once (every bound is checked in C) and
builds records (named tuples). ``contiv._fastpath.schema`` builds the programs; ``contiv.fastpath`` is what callers see.
"""

import datetime
import ipaddress
from collections import namedtuple
from functools import partial

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport (
    Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_AsLongLong
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

from contiv._fastpath.errors import DecodeError, EncodeError, SchemaError
from contiv.model.ip import Address, Network

cdef extern from "codec.h":
    cdef enum cv_kind:
        CV_U8, CV_I8, CV_U16, CV_I16, CV_U32, CV_I32, CV_U64, CV_I64, CV_F64, CV_BOOL
        CV_BYTES, CV_STRING, CV_STRUCT, CV_UNION
    cdef enum cv_shape:
        CV_ONE, CV_FIXED, CV_VLA, CV_VSTRING
    ctypedef struct cv_op:
        uint8_t kind
        uint8_t shape
        uint8_t conv
        uint8_t length_kind
        uint32_t offset
        uint32_t size
        uint32_t count
        uint32_t length_offset
        const cv_program *sub
    ctypedef struct cv_program:
        const cv_op *ops
        uint32_t nops
        uint32_t size
        const cv_op *tail
        const uint8_t *image
    int64_t cv_measure(const cv_program *, const uint8_t *, size_t, size_t *) nogil
    int cv_parse_ip4(const char *, size_t, uint8_t *) nogil
    int cv_parse_ip6(const char *, size_t, uint8_t *) nogil
    int cv_parse_address(const char *, size_t, uint8_t *) nogil
    int cv_parse_prefix(const char *, size_t, uint8_t *) nogil
    int cv_parse_mac(const char *, size_t, uint8_t *) nogil
    int cv_split_prefix(const char *, size_t, size_t *) nogil
    uint16_t cv_load16(const uint8_t *) nogil
    uint32_t cv_load32(const uint8_t *) nogil
    uint64_t cv_load64(const uint8_t *) nogil
    double cv_load_f64(const uint8_t *) nogil
    void cv_store16(uint8_t *, uint16_t) nogil
    void cv_store32(uint8_t *, uint32_t) nogil
    void cv_store64(uint8_t *, uint64_t) nogil
    void cv_store_f64(uint8_t *, double) nogil
    uint32_t cv_load_count(const uint8_t *, uint8_t) nogil

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    object PyUnicode_DecodeASCII(const char *, Py_ssize_t, const char *)
    int PyUnicode_IS_ASCII(object)
    object PyType_GenericAlloc(PyTypeObject *, Py_ssize_t)

# Which Python type stands for a value; the numbers go into cv_op.conv.
cdef enum Conv:
    C_NONE, C_BOOL, C_ENUM, C_MAC, C_IP4, C_IP6, C_ADDRESS, C_PREFIX, C_ADDRESS_WITH_PREFIX
    C_IP4_PREFIX, C_IP6_PREFIX, C_IP4_WITH_PREFIX, C_IP6_WITH_PREFIX, C_TIMESTAMP, C_TIMEDELTA

CONVERSIONS = {
    "vl_api_mac_address_t": C_MAC,
    "vl_api_ip4_address_t": C_IP4,
    "vl_api_ip6_address_t": C_IP6,
    "vl_api_address_t": C_ADDRESS,
    "vl_api_prefix_t": C_PREFIX,
    "vl_api_address_with_prefix_t": C_ADDRESS_WITH_PREFIX,
    "vl_api_ip4_prefix_t": C_IP4_PREFIX,
    "vl_api_ip6_prefix_t": C_IP6_PREFIX,
    "vl_api_ip4_address_with_prefix_t": C_IP4_WITH_PREFIX,
    "vl_api_ip6_address_with_prefix_t": C_IP6_WITH_PREFIX,
    "vl_api_timestamp_t": C_TIMESTAMP,
    "vl_api_timedelta_t": C_TIMEDELTA,
}
KINDS = {
    "u8": CV_U8, "i8": CV_I8, "u16": CV_U16, "i16": CV_I16, "u32": CV_U32, "i32": CV_I32, "u64": CV_U64,
    "i64": CV_I64, "f64": CV_F64, "bool": CV_BOOL, "bytes": CV_BYTES, "string": CV_STRING, "struct": CV_STRUCT,
    "union": CV_UNION,
}
CONV_BOOL, CONV_ENUM = C_BOOL, C_ENUM
SHAPES = {"one": CV_ONE, "fixed": CV_FIXED, "vla": CV_VLA, "vstring": CV_VSTRING}
# bytes that the packed value of a conversion has; a type of another size under the same name is not converted
CONVERTED_SIZE = {
    C_MAC: 6, C_IP4: 4, C_IP6: 16, C_ADDRESS: 17, C_PREFIX: 18, C_ADDRESS_WITH_PREFIX: 18, C_IP4_PREFIX: 5,
    C_IP6_PREFIX: 17, C_IP4_WITH_PREFIX: 5, C_IP6_WITH_PREFIX: 17, C_TIMESTAMP: 8, C_TIMEDELTA: 8,
}

cdef object IPv4Address = ipaddress.IPv4Address
cdef object IPv6Address = ipaddress.IPv6Address
cdef object IPv4Network = ipaddress.IPv4Network
cdef object IPv6Network = ipaddress.IPv6Network
cdef object IPv4Interface = ipaddress.IPv4Interface
cdef object IPv6Interface = ipaddress.IPv6Interface
cdef object Datetime = datetime.datetime
cdef object Timedelta = datetime.timedelta


cdef class MACAddress:
    """An Ethernet address: six bytes; equal to another object when ``packed`` or the text is equal."""

    cdef readonly bytes packed

    def __init__(self, value):
        cdef uint8_t raw[6]
        if not isinstance(value, (str, bytes, bytearray, memoryview, MACAddress)):
            raise EncodeError(f"{value!r} is no MAC address")
        put_mac(value, raw)
        self.packed = raw[:6]

    @property
    def mac_binary(self):
        """The six bytes, under the name that vpp_papi gives them."""
        return self.packed

    @property
    def mac_string(self):
        """The text, under the name that vpp_papi gives it."""
        return str(self)

    def __len__(self):
        return 6

    def __bytes__(self):
        return self.packed

    def __str__(self):
        return self.packed.hex(":")

    def __repr__(self):
        return f"MACAddress({self})"

    def __hash__(self):
        return hash(self.packed)

    def __reduce__(self):
        return MACAddress, (self.packed,)

    def __eq__(self, other):
        if isinstance(other, MACAddress):
            return self.packed == (<MACAddress>other).packed
        if isinstance(other, (str, bytes)):
            try:
                return self.packed == MACAddress(other).packed
            except EncodeError:
                return False
        packed = getattr(other, "packed", None)
        return NotImplemented if packed is None else self.packed == packed


cdef MACAddress mac_from(const uint8_t *raw):
    cdef MACAddress mac = MACAddress.__new__(MACAddress)
    mac.packed = raw[:6]
    return mac


# ---- addresses ------------------------------------------------------------------------------------------------------
# The constructors of ipaddress cost more than the rest of a message. The values are built without them when a check
# at import shows that this Python's classes have the expected inside; otherwise by the constructors.

cdef object object_new = object.__new__
cdef list MASKS4 = [IPv4Network((0, n)).netmask for n in range(33)]
cdef list MASKS6 = [IPv6Network((0, n)).netmask for n in range(129)]
cdef uint32_t MASK4[33]
cdef int _n
for _n in range(33):
    MASK4[_n] = <uint32_t>int(MASKS4[_n])
cdef bint direct = True


cdef inline object ip4_from(uint32_t value):
    if not direct:
        return IPv4Address(value)
    address = PyType_GenericAlloc(<PyTypeObject *>IPv4Address, 0)
    address._ip = value
    return address


cdef inline object ip6_from(const uint8_t *raw):
    if not direct:
        return IPv6Address(raw[:16])
    address = PyType_GenericAlloc(<PyTypeObject *>IPv6Address, 0)
    address._ip = (<object>cv_load64(raw) << 64) | cv_load64(raw + 8)
    address._scope_id = None
    return address


cdef list _one(address):
    return [address]


cdef object net4_from(uint32_t value, int length):
    if not direct or length == 31:
        return IPv4Network((value, length), False)
    network = PyType_GenericAlloc(<PyTypeObject *>IPv4Network, 0)
    address = ip4_from(value & MASK4[length])
    network.network_address = address
    network.netmask = MASKS4[length]
    network._prefixlen = length
    if length == 32:
        network.hosts = partial(list, (address,))
    return network


cdef object net6_from(const uint8_t *raw, int length):
    cdef uint8_t masked[16]
    cdef int i
    if not direct or length >= 127:
        return IPv6Network((raw[:16], length), False)
    memset(masked, 0, 16)
    memcpy(masked, raw, length // 8)
    if length % 8:
        i = length // 8
        masked[i] = raw[i] & <uint8_t>(0xFF << (8 - length % 8))
    network = PyType_GenericAlloc(<PyTypeObject *>IPv6Network, 0)
    network.network_address = ip6_from(masked)
    network.netmask = MASKS6[length]
    network._prefixlen = length
    return network


def _check_direct():
    """Whether values built without the constructors have the same inside as those built by them."""
    cdef uint8_t raw[16]
    cdef int length
    text = b"\x20\x01\x0d\xb8\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
    memcpy(raw, PyBytes_AS_STRING(text), 16)
    try:
        if ip4_from(0x0A010203) != IPv4Address("10.1.2.3") or str(ip4_from(0x0A010203)) != "10.1.2.3":
            return False
        if ip6_from(raw) != IPv6Address(text) or str(ip6_from(raw)) != str(IPv6Address(text)):
            return False
        for length in range(33):
            if not _same(net4_from(0x0AFFFFFF, length), IPv4Network((0x0AFFFFFF, length), False)):
                return False
        for length in range(129):
            if not _same(net6_from(raw, length), IPv6Network((text, length), False)):
                return False
    except (AttributeError, TypeError):
        return False
    return True


def _same(made, expected):
    left, right = vars(made), vars(expected)
    return (
        made == expected and left.keys() == right.keys() and str(made) == str(expected)
        and made.broadcast_address == expected.broadcast_address and hash(made) == hash(expected)
        and all(left[k] == right[k] for k in left if k != "hosts")
    )


direct = _check_direct()


cdef int _bad(value, what) except -1:
    raise EncodeError(f"{value!r} is no {what}")


cdef int put_mac(value, uint8_t *at) except -1:
    cdef Py_ssize_t n
    cdef const char *text
    if isinstance(value, str):
        text = PyUnicode_AsUTF8AndSize(value, &n)
        if cv_parse_mac(text, n, at) < 0:
            _bad(value, "MAC address")
        return 0
    return put_bytes(value, at, 6)


cdef int put_ip4(value, uint8_t *at) except -1:
    cdef Py_ssize_t n
    cdef const char *text
    if isinstance(value, str):
        text = PyUnicode_AsUTF8AndSize(value, &n)
        if cv_parse_ip4(text, n, at) < 0:
            _bad(value, "IPv4 address")
    elif isinstance(value, IPv4Address):
        cv_store32(at, <uint32_t>(value._ip if direct else int(value)))
    elif isinstance(value, Address):
        if value.version != 4:
            _bad(str(value), "IPv4 address")
        cv_store32(at, <uint32_t>value.value)
    elif isinstance(value, int):
        put_unsigned(value, 0xFFFFFFFF, at, 4)
    else:
        put_bytes(value, at, 4)
    return 0


cdef int put_ip6(value, uint8_t *at) except -1:
    cdef Py_ssize_t n
    cdef const char *text
    if isinstance(value, str):
        text = PyUnicode_AsUTF8AndSize(value, &n)
        if cv_parse_ip6(text, n, at) < 0:
            _bad(value, "IPv6 address")
    elif isinstance(value, IPv6Address):
        memcpy(at, PyBytes_AS_STRING(value.packed), 16)
    elif isinstance(value, Address):
        if value.version != 6:
            _bad(str(value), "IPv6 address")
        memcpy(at, PyBytes_AS_STRING(value.packed), 16)
    else:
        put_bytes(value, at, 16)
    return 0


# 1 when the value was written, 0 when it is a mapping or record for the generic path
cdef int put_address(value, uint8_t *at) except -1:
    cdef Py_ssize_t n
    cdef const char *text
    if isinstance(value, str):
        text = PyUnicode_AsUTF8AndSize(value, &n)
        if cv_parse_address(text, n, at) < 0:
            _bad(value, "IP address")
        return 1
    if isinstance(value, IPv4Address) or (isinstance(value, Address) and value.version == 4):
        at[0] = 0
        memset(at + 5, 0, 12)
        put_ip4(value, at + 1)
        return 1
    if isinstance(value, (IPv6Address, Address)):
        at[0] = 1
        put_ip6(value, at + 1)
        return 1
    return 0


cdef int put_prefix(value, uint8_t *at) except -1:
    cdef Py_ssize_t n
    cdef const char *text
    if isinstance(value, str):
        text = PyUnicode_AsUTF8AndSize(value, &n)
        if cv_parse_prefix(text, n, at) < 0:
            _bad(value, "IP prefix (address/length)")
        return 1
    if isinstance(value, (IPv4Network, IPv6Network)):
        at[17] = <uint8_t>value.prefixlen
        return put_address(value.network_address, at)
    if isinstance(value, (IPv4Interface, IPv6Interface)):
        at[17] = <uint8_t>value.network.prefixlen
        return put_address(value, at)
    if isinstance(value, Network):
        at[17] = <uint8_t>value.length
        return put_address(Address(value.version, value.value), at)
    return 0


# ip4_prefix and ip6_prefix: address of the family's size, then the length
cdef int put_family_prefix(value, uint8_t *at, bint six) except -1:
    cdef uint8_t full[18]
    cdef int size = 16 if six else 4
    if not put_prefix(value, full):
        return 0
    if full[0] != six:
        _bad(value, "IPv6 prefix" if six else "IPv4 prefix")
    memcpy(at, full + 1, size)
    at[size] = full[17]
    return 1


# ---- encoding -------------------------------------------------------------------------------------------------------

cdef struct Out:
    uint8_t *data
    Py_ssize_t len
    Py_ssize_t cap
    bint heap


cdef enum:
    ROOM = 4096  # bytes on the stack before an encoder takes memory: most messages fit


cdef int reserve(Out *out, Py_ssize_t more) except -1:
    cdef Py_ssize_t cap
    cdef uint8_t *data
    if out.len + more > out.cap:
        cap = max(out.cap * 2, out.len + more)
        data = <uint8_t *>realloc(out.data if out.heap else NULL, cap)
        if data == NULL:
            raise MemoryError
        if not out.heap:
            memcpy(data, out.data, out.len)
        out.data, out.cap, out.heap = data, cap, True
    return 0


cdef int put_bytes(value, uint8_t *at, Py_ssize_t size) except -1:
    cdef Py_buffer view
    cdef Py_ssize_t n
    if type(value) is bytes:
        n = PyBytes_GET_SIZE(value)
        if n > size:
            raise EncodeError(f"{n} bytes do not fit in {size}")
        memcpy(at, PyBytes_AS_STRING(value), n)
        memset(at + n, 0, size - n)
        return 0
    data = as_bytes(value)
    return put_bytes(data, at, size)


cdef bytes as_bytes(value):
    """What vpp_papi takes for u8 arrays: bytes-like, objects with ``packed``, lists of integers or of bytes."""
    if type(value) is bytes:
        return value
    if isinstance(value, str) or isinstance(value, int):
        raise EncodeError(f"bytes expected, got {value!r}")
    if PyObject_CheckBuffer(value):
        return bytes(value)
    packed = getattr(value, "packed", None)
    if packed is not None:
        return bytes(packed)
    if isinstance(value, (list, tuple)):
        if value and isinstance(value[0], (bytes, bytearray)):
            return b"".join(value)
        try:
            return bytes(value)
        except (TypeError, ValueError) as error:
            raise EncodeError(f"bytes expected: {error}") from None
    raise EncodeError(f"bytes expected, got {type(value).__name__}")


cdef bytes as_text(value):
    if isinstance(value, str):
        if not PyUnicode_IS_ASCII(value):
            raise EncodeError(f"{value!r} is not ASCII")
        return (<str>value).encode("ascii")
    return as_bytes(value)


cdef int put_unsigned(value, uint64_t limit, uint8_t *at, int size) except -1:
    cdef uint64_t number
    try:
        number = value
    except OverflowError:
        raise EncodeError(f"{value!r} is not in 0..{limit}") from None
    except TypeError:
        raise EncodeError(f"integer expected, got {value!r}") from None
    if number > limit:
        raise EncodeError(f"{value!r} is not in 0..{limit}")
    if size == 4:
        cv_store32(at, <uint32_t>number)
    elif size == 1:
        at[0] = <uint8_t>number
    elif size == 2:
        cv_store16(at, <uint16_t>number)
    else:
        cv_store64(at, number)
    return 0


cdef int put_signed(value, int64_t limit, uint8_t *at, int size) except -1:
    cdef int64_t number
    try:
        number = value
    except OverflowError:
        raise EncodeError(f"{value!r} is not in {-limit - 1}..{limit}") from None
    except TypeError:
        raise EncodeError(f"integer expected, got {value!r}") from None
    if number > limit or number < -limit - 1:
        raise EncodeError(f"{value!r} is not in {-limit - 1}..{limit}")
    if size == 4:
        cv_store32(at, <uint32_t>number)
    elif size == 1:
        at[0] = <uint8_t>number
    elif size == 2:
        cv_store16(at, <uint16_t>number)
    else:
        cv_store64(at, <uint64_t>number)
    return 0


cdef int put_f64(value, int conv, uint8_t *at) except -1:
    if conv == C_TIMESTAMP and isinstance(value, Datetime):
        value = value.timestamp()
    elif conv == C_TIMEDELTA and isinstance(value, Timedelta):
        value = value.total_seconds()
    try:
        cv_store_f64(at, <double>value)
    except TypeError:
        raise EncodeError(f"number expected, got {value!r}") from None
    return 0


cdef int put_scalar(const cv_op *op, value, enum, uint8_t *at) except -1:
    cdef int kind = op.kind
    if op.conv == C_ENUM and isinstance(value, str):
        value = enum.number(value)
    if kind == CV_BOOL:
        at[0] = 1 if value else 0
    elif kind == CV_U8:
        put_unsigned(value, 0xFF, at, 1)
    elif kind == CV_U16:
        put_unsigned(value, 0xFFFF, at, 2)
    elif kind == CV_U32:
        put_unsigned(value, 0xFFFFFFFF, at, 4)
    elif kind == CV_U64:
        put_unsigned(value, 0xFFFFFFFFFFFFFFFF, at, 8)
    elif kind == CV_I32:
        put_signed(value, 0x7FFFFFFF, at, 4)
    elif kind == CV_I16:
        put_signed(value, 0x7FFF, at, 2)
    elif kind == CV_I8:
        put_signed(value, 0x7F, at, 1)
    elif kind == CV_I64:
        put_signed(value, 0x7FFFFFFFFFFFFFFF, at, 8)
    else:
        put_f64(value, op.conv, at)
    return 0


cdef int put_converted(int conv, value, uint8_t *at) except -1:
    """1 when the value was written; 0 when it is a mapping or a record of the type's own fields."""
    if conv == C_PREFIX or conv == C_ADDRESS_WITH_PREFIX:
        return put_prefix(value, at)
    if conv == C_ADDRESS:
        return put_address(value, at)
    if conv == C_IP4_PREFIX or conv == C_IP4_WITH_PREFIX:
        return put_family_prefix(value, at, False)
    if conv == C_IP6_PREFIX or conv == C_IP6_WITH_PREFIX:
        return put_family_prefix(value, at, True)
    return 0


# One element of fixed size at out.data + at. The struct's own image is already there or is copied here.
cdef int put_element(Program owner, int i, value, Out *out, Py_ssize_t at) except -1:
    cdef const cv_op *op = owner.ops + i
    cdef uint8_t *p = out.data + at
    cdef Program sub
    if op.kind <= CV_BOOL:
        return put_scalar(op, value, owner.enums[i], p)
    if op.kind == CV_BYTES:
        if op.conv == C_NONE:
            return put_bytes(value, p, op.size)
        if op.conv == C_IP4:
            return put_ip4(value, p)
        if op.conv == C_IP6:
            return put_ip6(value, p)
        return put_mac(value, p)
    if op.kind == CV_STRING:
        data = as_text(value)
        if PyBytes_GET_SIZE(data) >= op.size:
            raise EncodeError(f"{PyBytes_GET_SIZE(data)} characters, at most {op.size - 1} fit")
        return put_bytes(data, p, op.size)
    sub = <Program>owner.subs[i]
    if op.conv != C_NONE and put_converted(op.conv, value, p):
        return 0
    memcpy(p, sub.c.image, sub.c.size)
    if op.kind == CV_UNION:
        return put_union(sub, value, out, at)
    return put_struct(sub, value, out, at)


cdef int put_union(Program program, value, Out *out, Py_ssize_t at) except -1:
    cdef int i
    if isinstance(value, dict):
        if not value:
            return 0
        name, value = next(iter(value.items()))  # the first key counts, as in vpp_papi
        i = program.find(name)
    elif isinstance(value, program.record):
        i = program.largest
        value = value[i]
    elif isinstance(value, (IPv4Address, Address)) and "ip4" in program.index and getattr(value, "version") == 4:
        i = program.index["ip4"]
    elif isinstance(value, (IPv6Address, Address)) and "ip6" in program.index:
        i = program.index["ip6"]
    else:
        return put_bytes(value, out.data + at, program.c.size)
    if value is None:
        return 0
    try:
        return put_field(program, i, value, out, at)
    except EncodeError as error:
        error.within(program.names[i])
        raise


cdef int put_fixed_array(Program owner, int i, value, Out *out, Py_ssize_t at) except -1:
    cdef const cv_op *op = owner.ops + i
    cdef Py_ssize_t k = 0
    cdef Py_ssize_t n = len(value)
    if n != op.count:
        raise EncodeError(f"{n} elements given, {op.count} expected")
    for item in value:
        put_item(owner, i, item, out, at + k * op.size, k)
        k += 1
    return 0


cdef int put_item(Program owner, int i, item, Out *out, Py_ssize_t at, Py_ssize_t k) except -1:
    if item is None:
        return 0
    try:
        return put_element(owner, i, item, out, at)
    except EncodeError as error:
        error.within(f"[{k}]")
        raise


# a field of fixed size
cdef int put_field(Program program, int i, value, Out *out, Py_ssize_t at) except -1:
    cdef const cv_op *op = program.ops + i
    if op.shape == CV_ONE:
        return put_element(program, i, value, out, at + op.offset)
    return put_fixed_array(program, i, value, out, at + op.offset)


# what stands behind the fixed part; out.len is its place
cdef int put_tail(Program program, value, Out *out, Py_ssize_t at, bint counted) except -1:
    cdef int i = program.c.nops - 1
    cdef const cv_op *op = program.ops + i
    cdef Program sub = <Program>program.subs[i]
    cdef Py_ssize_t n, k, place, start
    cdef bytes data
    if op.shape == CV_VSTRING:
        data = b"" if value is None else as_text(value)
        n = PyBytes_GET_SIZE(data)
        if op.size and n >= op.size:
            raise EncodeError(f"{n} characters, at most {op.size - 1} allowed")
        reserve(out, n + 4)
        cv_store32(out.data + out.len, <uint32_t>n)
        memcpy(out.data + out.len + 4, PyBytes_AS_STRING(data), n)
        out.len += n + 4
        return 0
    if op.shape == CV_ONE:
        return put_variable(sub, value, out)
    if op.shape == CV_VLA and op.kind == CV_U8 and op.conv == C_NONE:
        data = b"" if value is None else as_bytes(value)
        n = PyBytes_GET_SIZE(data)
        put_count(op, n, out.data + at, counted)
        reserve(out, n)
        memcpy(out.data + out.len, PyBytes_AS_STRING(data), n)
        out.len += n
        return 0
    if value is None:
        value = ()
    raw = program.pack_array(i, value)
    if raw is not None:
        n = PyBytes_GET_SIZE(raw)
        put_count(op, n // op.size, out.data + at, counted)
        reserve(out, n)
        memcpy(out.data + out.len, PyBytes_AS_STRING(raw), n)
        out.len += n
        return 0
    if not isinstance(value, (list, tuple)):
        value = list(value)
    n = len(value)
    if op.shape == CV_FIXED:
        if n != op.count:
            raise EncodeError(f"{n} elements given, {op.count} expected")
    else:
        put_count(op, n, out.data + at, counted)
    if sub is not None and sub.c.tail != NULL:
        for k in range(n):
            put_variable(sub, value[k], out)
        return 0
    reserve(out, n * op.size)
    start = out.len
    out.len += n * op.size
    memset(out.data + start, 0, n * op.size)
    k = 0
    for item in value:
        if k == n:
            break  # grew while its items were read
        put_item(program, i, item, out, start + k * op.size, k)
        k += 1
    return 0


cdef int put_count(const cv_op *op, Py_ssize_t n, uint8_t *fixed, bint counted) except -1:
    cdef uint8_t *at = fixed + op.length_offset
    if counted:
        if cv_load_count(at, op.length_kind) != n:
            raise EncodeError(f"{n} elements given, but {cv_load_count(at, op.length_kind)} announced")
        return 0
    if op.length_kind == CV_U8:
        return put_unsigned(n, 0xFF, at, 1)
    if op.length_kind == CV_U16:
        return put_unsigned(n, 0xFFFF, at, 2)
    return put_unsigned(n, 0xFFFFFFFF, at, 4)


# a whole struct with a tail, appended
cdef int put_variable(Program program, value, Out *out) except -1:
    cdef Py_ssize_t at = out.len
    reserve(out, program.c.size)
    memcpy(out.data + at, program.c.image, program.c.size)
    out.len += program.c.size
    return put_struct(program, value, out, at)


# fields of a struct whose image stands at out.data + at; when it has a tail, out.len is behind the fixed part
cdef int put_struct(Program program, value, Out *out, Py_ssize_t at) except -1:
    if type(value) is dict:
        return put_dict(program, <dict>value, out, at)
    if value is None:
        return put_dict(program, {}, out, at)
    if program.transparent:
        return put_dict(program, {program.names[0]: value}, out, at)
    if isinstance(value, dict):
        return put_dict(program, dict(value), out, at)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return put_dict(program, dict(zip(value._fields, value)), out, at)
    raise EncodeError(f"mapping or record of {program.name} expected, got {value!r}")


cdef int put_dict(Program program, dict fields, Out *out, Py_ssize_t at) except -1:
    cdef Py_ssize_t pos = 0
    cdef PyObject *key
    cdef PyObject *item
    cdef int expected = 0, i, n = program.c.nops
    cdef int tail_index = n - 1 if program.c.tail != NULL else -1
    cdef bint counted = False
    cdef object tail = None
    i = -1
    try:
        while PyDict_Next(fields, &pos, &key, &item):
            # names of fields are interned, and callers give them mostly in the schema's order
            i = expected
            while i < n and program.keys[i] != key:
                i += 1
            if i == n:
                i = -1
                i = program.find(<object>key)
            expected = i + 1
            if item == <PyObject *>None:
                continue
            if i == tail_index:
                tail = <object>item
                continue
            if i == program.length_index:
                counted = True
            put_field(program, i, <object>item, out, at)
        if tail_index >= 0:
            i = tail_index
            put_tail(program, tail, out, at, counted)
    except EncodeError as error:
        if i >= 0:
            error.within(program.names[i])
        raise
    return 0


# ---- decoding -------------------------------------------------------------------------------------------------------

cdef struct In:
    const uint8_t *base
    bint raw  # no type conversion


cdef object get_family_prefix(int conv, const uint8_t *p, In *src):
    cdef bint six = conv == C_IP6_PREFIX or conv == C_IP6_WITH_PREFIX
    cdef int length = p[16] if six else p[4]
    if length > (128 if six else 32):
        raise DecodeError("", (p - src.base) + (16 if six else 4), f"prefix length {length}")
    if conv == C_IP4_PREFIX:
        return net4_from(cv_load32(p), length)
    if conv == C_IP6_PREFIX:
        return net6_from(p, length)
    return IPv6Interface((p[:16], length)) if six else IPv4Interface((cv_load32(p), length))


cdef object get_converted(int conv, const uint8_t *p, In *src):
    cdef int length
    if conv >= C_IP4_PREFIX:
        return get_family_prefix(conv, p, src)
    if p[0] > 1:
        return None  # neither IPv4 nor IPv6
    if conv == C_ADDRESS:
        return ip6_from(p + 1) if p[0] else ip4_from(cv_load32(p + 1))
    length = p[17]
    if length > (128 if p[0] else 32):
        raise DecodeError("", (p - src.base) + 17, f"prefix length {length}")
    if conv == C_PREFIX:
        return net6_from(p + 1, length) if p[0] else net4_from(cv_load32(p + 1), length)
    return IPv6Interface((p[1:17], length)) if p[0] else IPv4Interface((cv_load32(p + 1), length))


cdef object get_f64(const cv_op *op, const uint8_t *p, In *src):
    cdef double number = cv_load_f64(p)
    if op.conv == C_NONE or src.raw:
        return number
    try:
        if op.conv == C_TIMESTAMP:
            return Datetime.fromtimestamp(number)
        return Timedelta(seconds=number)
    except (ValueError, OverflowError, OSError) as error:
        raise DecodeError("", p - src.base, str(error)) from None


cdef object get_scalar(const cv_op *op, enum, const uint8_t *p, In *src):
    cdef int kind = op.kind
    cdef object number
    if kind == CV_U32:
        number = cv_load32(p)
    elif kind == CV_U8:
        number = p[0]
    elif kind == CV_BOOL:
        return p[0] != 0
    elif kind == CV_U16:
        number = cv_load16(p)
    elif kind == CV_I32:
        number = <int32_t>cv_load32(p)
    elif kind == CV_U64:
        number = cv_load64(p)
    elif kind == CV_F64:
        return get_f64(op, p, src)
    elif kind == CV_I16:
        number = <int16_t>cv_load16(p)
    elif kind == CV_I8:
        number = <int8_t>p[0]
    else:
        number = <int64_t>cv_load64(p)
    if op.conv == C_ENUM:
        return enum.member(number)
    return number


cdef object get_element(Program owner, int i, const uint8_t *p, In *src):
    cdef const cv_op *op = owner.ops + i
    cdef const uint8_t *end
    cdef bint raw
    if op.kind <= CV_BOOL:
        return get_scalar(op, owner.enums[i] if op.conv == C_ENUM else None, p, src)
    if op.kind == CV_BYTES:
        if op.conv == C_NONE or src.raw:
            return PyBytes_FromStringAndSize(<const char *>p, op.size)
        if op.conv == C_IP4:
            return ip4_from(cv_load32(p))
        return ip6_from(p) if op.conv == C_IP6 else mac_from(p)
    if op.kind == CV_STRING:
        end = <const uint8_t *>memchr(p, 0, op.size)
        return PyUnicode_DecodeASCII(<const char *>p, op.size if end == NULL else end - p, b"replace")
    if op.conv != C_NONE and not src.raw:
        return get_converted(op.conv, p, src)
    return get_struct(<Program>owner.subs[i], p, src, NULL)


cdef list get_array(Program owner, int i, const uint8_t *p, Py_ssize_t n, In *src, size_t *used):
    cdef Program sub = <Program>owner.subs[i]
    cdef Py_ssize_t k, step = owner.ops[i].size
    cdef size_t total = 0, size = 0
    cdef list result
    if sub is not None and sub.c.tail != NULL:
        result = []
        for k in range(n):
            result.append(get_struct(sub, p + total, src, &size))
            total += size
    else:
        result = PyList_New(n)
        for k in range(n):
            item = get_element(owner, i, p + k * step, src)
            Py_INCREF(item)
            PyList_SET_ITEM(result, k, item)
        total = n * step
    if used != NULL:
        used[0] = total
    return result


# the tail, at p = fixed + size; how far it reached goes to *used
cdef object get_tail(Program program, const uint8_t *fixed, In *src, size_t *used):
    cdef int i = program.c.nops - 1
    cdef const cv_op *op = program.ops + i
    cdef const uint8_t *p = fixed + program.c.size
    cdef Py_ssize_t n
    if op.shape == CV_VSTRING:
        n = cv_load32(p)
        used[0] = n + 4
        return PyUnicode_DecodeASCII(<const char *>p + 4, n, b"replace")
    if op.shape == CV_ONE:
        return get_struct(<Program>program.subs[i], p, src, used)
    n = op.count
    if op.shape == CV_VLA:
        n = cv_load_count(fixed + op.length_offset, op.length_kind)
        if op.kind == CV_U8 and op.conv == C_NONE:
            used[0] = n
            return PyBytes_FromStringAndSize(<const char *>p, n)
    return get_array(program, i, p, n, src, used)


# All arms of a union are read, as vpp_papi does; the bytes of one may make no sense as another, which is then None.
cdef object get_arm(Program program, int i, const uint8_t *p, In *src):
    cdef const cv_op *op = program.ops + i
    try:
        if op.shape == CV_ONE:
            return get_element(program, i, p, src)
        return get_array(program, i, p, op.count, src, NULL)
    except DecodeError:
        return None


# A record from bytes that cv_measure has accepted.
cdef object get_struct(Program program, const uint8_t *p, In *src, size_t *used):
    cdef int i, n = program.c.nops
    cdef size_t tail = 0
    cdef const cv_op *op
    record = PyType_GenericAlloc(<PyTypeObject *>program.record, n)
    for i in range(n):
        op = program.ops + i
        if op == program.c.tail:
            value = get_tail(program, p, src, &tail)
        elif program.union:
            value = get_arm(program, i, p, src)
        elif op.shape == CV_ONE:
            value = get_element(program, i, p + op.offset, src)
        else:
            value = get_array(program, i, p + op.offset, op.count, src, NULL)
        Py_INCREF(value)
        PyTuple_SET_ITEM(record, i, value)
    if used != NULL:
        used[0] = program.c.size + tail
    return record[0] if program.transparent else record


# ---- programs -------------------------------------------------------------------------------------------------------

cdef class Program:
    """One message or type, compiled: ops with fixed offsets, the image of its defaults, the class of its records.

    ``fields`` are tuples ``(name, kind, shape, conv, size, count, length_field, default, sub, enum)`` as
    ``contiv._fastpath.schema`` makes them; SchemaError when they do not fit together.
    """

    cdef cv_program c
    cdef cv_op *ops
    cdef uint8_t *image
    cdef PyObject **keys
    cdef readonly str name
    cdef readonly list names
    cdef readonly dict index
    cdef readonly list subs
    cdef readonly list enums
    cdef readonly type record
    cdef readonly list fields
    cdef readonly int largest
    cdef int length_index
    cdef bint transparent
    cdef readonly int msg_id_offset
    cdef readonly int client_index_offset
    cdef readonly int context_offset
    cdef readonly bint union
    cdef object packer
    cdef dict dtypes

    def __cinit__(self, str name, list fields, *, bint union=False, bint transparent=False, packer=None):
        cdef int i, n = len(fields)
        self.name = name
        self.fields = fields
        self.union = union
        self.transparent = transparent
        self.packer = packer
        self.largest = 0
        self.length_index = -1
        self.msg_id_offset = self.client_index_offset = self.context_offset = -1
        self.names = [intern_name(field[0]) for field in fields]
        self.index = {field: i for i, field in enumerate(self.names)}
        if len(self.index) != n:
            raise SchemaError(f"{name}: a field name occurs twice")
        self.subs = [field[8] for field in fields]
        self.enums = [field[9] for field in fields]
        self.record = namedtuple(name, self.names, rename=True)
        self.ops = <cv_op *>PyMem_Malloc(max(n, 1) * sizeof(cv_op))
        self.keys = <PyObject **>PyMem_Malloc(max(n, 1) * sizeof(PyObject *))
        if self.ops == NULL or self.keys == NULL:
            raise MemoryError
        memset(self.ops, 0, max(n, 1) * sizeof(cv_op))
        for i in range(n):
            self.keys[i] = <PyObject *>self.names[i]
        self.lay_out()
        self.draw_image()

    def __dealloc__(self):
        PyMem_Free(self.ops)
        PyMem_Free(self.keys)
        PyMem_Free(self.image)

    cdef int lay_out(self) except -1:
        cdef int i, n = len(self.fields)
        cdef cv_op *op
        cdef Program sub
        cdef uint64_t size, offset = 0, total = 0
        self.c.ops = self.ops
        self.c.nops = n
        for i in range(n):
            name, kind, shape, conv, size, count, length_field, default, sub, enum = self.fields[i]
            op = self.ops + i
            op.kind, op.shape, op.conv, op.size, op.count = kind, shape, conv, size, count
            op.offset = 0 if self.union else offset
            if sub is not None:
                op.sub = &sub.c
                op.size = size = sub.c.size
            if self.c.tail != NULL:
                raise SchemaError(f"{self.name}.{self.names[i - 1]}: of variable length, but not the last field")
            if shape == CV_VLA:
                self.attach_count(i, op, length_field)
            if shape == CV_VLA or shape == CV_VSTRING or (sub is not None and sub.c.tail != NULL):
                if self.union:
                    raise SchemaError(f"{self.name}.{name}: of variable length in a union")
                if shape != CV_VSTRING and shape != CV_ONE and size == 0:
                    raise SchemaError(f"{self.name}.{name}: array of empty elements")
                self.c.tail = op
                continue
            size *= count if shape == CV_FIXED else 1
            if size > total:
                self.largest = i
                total = size
            offset = max(offset, size) if self.union else offset + size
            if offset > 1 << 24:
                raise SchemaError(f"{self.name}.{name}: fixed part of more than 16 MB")
        self.c.size = <uint32_t>offset
        for name, attribute in (("_vl_msg_id", 2), ("client_index", 4), ("context", 4)):
            if name in self.index and self.ops[<int>self.index[name]].shape == CV_ONE:
                op = self.ops + <int>self.index[name]
                if op.kind == (CV_U16 if attribute == 2 else CV_U32):
                    self.note_header(name, op.offset)
        return 0

    cdef int note_header(self, name, int offset) except -1:
        if name == "_vl_msg_id":
            self.msg_id_offset = offset
        elif name == "client_index":
            self.client_index_offset = offset
        else:
            self.context_offset = offset
        return 0

    cdef int attach_count(self, int i, cv_op *op, length_field) except -1:
        cdef int at = self.index.get(length_field, -1)
        cdef cv_op *count = self.ops + at
        if at < 0 or at >= i or count.shape != CV_ONE or count.kind not in (CV_U8, CV_U16, CV_U32):
            raise SchemaError(f"{self.name}.{self.names[i]}: counted by {length_field!r}, which is no earlier integer")
        op.length_offset = count.offset
        op.length_kind = count.kind
        self.length_index = at
        return 0

    cdef int draw_image(self) except -1:
        cdef int i
        cdef cv_op *op
        cdef Out out
        cdef uint32_t k
        cdef Program sub
        self.image = <uint8_t *>PyMem_Malloc(max(self.c.size, 1))
        if self.image == NULL:
            raise MemoryError
        memset(self.image, 0, self.c.size)
        self.c.image = self.image
        out.data, out.len, out.cap, out.heap = self.image, self.c.size, self.c.size, False
        for i in range(<int>self.c.nops):
            op = self.ops + i
            if op == self.c.tail or self.union:
                continue
            sub = self.subs[i]
            if sub is not None:
                for k in range(op.count if op.shape == CV_FIXED else 1):
                    memcpy(self.image + op.offset + k * op.size, sub.image, op.size)
            default = self.fields[i][7]
            if default is not None and op.shape == CV_ONE:
                try:
                    put_element(self, i, default, &out, op.offset)
                except EncodeError as error:
                    raise SchemaError(f"{self.name}.{self.names[i]}: default {default!r}: {error.problem}") from None
        return 0

    cdef int find(self, name) except -1:
        found = self.index.get(name)
        if found is None:
            raise EncodeError(f"no field {name!r}; fields are {', '.join(self.names)}")
        return found

    cdef bytes pack_array(self, int i, value):
        """Bytes of a numpy array for the variable array of field ``i``, or None when it is an ordinary sequence."""
        if self.packer is None or not hasattr(value, "dtype"):
            return None
        return self.packer(self, i, value)

    @property
    def size(self):
        """Bytes of the fixed part."""
        return self.c.size

    @property
    def variable(self):
        """Whether something of variable length stands behind the fixed part."""
        return self.c.tail != NULL

    @property
    def default_image(self):
        """The fixed part with every default filled in."""
        return PyBytes_FromStringAndSize(<const char *>self.image, self.c.size)

    def op(self, int i):
        """``(kind, shape, conv, offset, size, count)`` of field ``i``, for the bulk layer."""
        if not 0 <= i < <int>self.c.nops:
            raise IndexError(i)
        cdef cv_op *op = self.ops + i
        offset = self.c.size if op == self.c.tail else op.offset
        return op.kind, op.shape, op.conv, offset, op.size, op.count

    cdef int fill(self, Out *out, unsigned msg_id, uint32_t client_index, uint32_t context, dict fields) except -1:
        cdef Py_ssize_t at = out.len
        cdef uint8_t *p
        reserve(out, self.c.size)
        p = out.data + at
        memcpy(p, self.image, self.c.size)
        out.len += self.c.size
        if self.msg_id_offset >= 0:
            cv_store16(p + self.msg_id_offset, <uint16_t>msg_id)
        if self.client_index_offset >= 0:
            cv_store32(p + self.client_index_offset, client_index)
        if self.context_offset >= 0:
            cv_store32(p + self.context_offset, context)
        try:
            put_dict(self, fields, out, at)
        except EncodeError as error:
            error.message = self.name
            raise
        return 0

    def encode(self, unsigned msg_id, uint32_t client_index, uint32_t context, dict fields, *, bint framed=False):
        """The message as bytes; ``framed`` puts the socket's 16-byte header in front. EncodeError."""
        cdef uint8_t room[ROOM]
        cdef Out out
        out.data, out.len, out.cap, out.heap = room, 0, ROOM, False
        try:
            if framed:
                memset(room, 0, 16)
                out.len = 16
            self.fill(&out, msg_id, client_index, context, fields)
            if framed:
                if out.len - 16 > 0xFFFFFFFF:
                    raise EncodeError("message of more than 4 GB", message=self.name)
                cv_store32(out.data + 8, <uint32_t>(out.len - 16))
            return PyBytes_FromStringAndSize(<const char *>out.data, out.len)
        finally:
            if out.heap:
                free(out.data)

    def encode_into(self, buffer, Py_ssize_t offset, unsigned msg_id, uint32_t client_index, uint32_t context,
                    dict fields):
        """Write the message into ``buffer`` from ``offset`` on and return the offset behind it. EncodeError."""
        cdef bytes data = self.encode(msg_id, client_index, context, fields)
        cdef Py_buffer view
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if offset < 0 or n > view.len - offset:
                raise EncodeError(f"{n} bytes do not fit in the buffer from offset {offset}", message=self.name)
            memcpy(<uint8_t *>view.buf + offset, PyBytes_AS_STRING(data), n)
        finally:
            PyBuffer_Release(&view)
        return offset + n

    cdef object read(self, const uint8_t *data, size_t n, bint raw):
        """A record from data[0..n); the C side of ``decode``."""
        cdef size_t error_at = 0
        cdef size_t used = 0
        cdef In src
        if cv_measure(&self.c, data, n, &error_at) < 0:
            raise DecodeError(self.name, error_at)
        src.base, src.raw = data, raw
        try:
            return get_struct(self, data, &src, &used)
        except DecodeError as error:
            raise DecodeError(self.name, error.offset, error.problem) from None

    def decode(self, data, *, bint raw=False):
        """The record in ``data`` (bytes-like); ``raw`` leaves addresses and times as bytes and numbers. DecodeError."""
        cdef Py_buffer view
        if type(data) is bytes:
            return self.read(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), raw)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return self.read(<const uint8_t *>view.buf, view.len, raw)
        finally:
            PyBuffer_Release(&view)

    def measure(self, data):
        """Bytes that the message takes at the start of ``data``. DecodeError when it ends too early."""
        cdef Py_buffer view
        cdef size_t error_at = 0
        cdef int64_t n
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            n = cv_measure(&self.c, <const uint8_t *>view.buf, view.len, &error_at)
        finally:
            PyBuffer_Release(&view)
        if n < 0:
            raise DecodeError(self.name, error_at)
        return n

    def __repr__(self):
        return f"<Program {self.name}: {len(self.names)} fields, {self.c.size} bytes{'+' if self.variable else ''}>"


cdef str intern_name(name):
    import sys
    if not isinstance(name, str):
        raise SchemaError(f"{name!r} is no field name")
    return sys.intern(str(name))
