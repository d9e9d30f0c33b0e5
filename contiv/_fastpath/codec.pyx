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
from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.number cimport PyNumber_Index
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from contiv._fastpath.errors import DecodeError, EncodeError, SchemaError
from contiv.model.ip import Address, Network

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    object PyUnicode_DecodeASCII(const char *, Py_ssize_t, const char *)
    int PyUnicode_IS_ASCII(object)
    void PyObject_GC_UnTrack(void *)
    int PyObject_IS_GC(object)
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
KIND_NAMES = {number: name for name, number in KINDS.items()}
CONV_BOOL, CONV_ENUM = C_BOOL, C_ENUM
SHAPES = {"one": CV_ONE, "fixed": CV_FIXED, "vla": CV_VLA, "vstring": CV_VSTRING}
SHAPE_NAMES = {number: name for name, number in SHAPES.items()}
# bytes that the packed value of a conversion has; a type of another size under the same name is not converted
CONVERTED_SIZE = {
    C_MAC: 6, C_IP4: 4, C_IP6: 16, C_ADDRESS: 17, C_PREFIX: 18, C_ADDRESS_WITH_PREFIX: 18, C_IP4_PREFIX: 5,
    C_IP6_PREFIX: 17, C_IP4_WITH_PREFIX: 5, C_IP6_WITH_PREFIX: 17, C_TIMESTAMP: 8, C_TIMEDELTA: 8,
}

include "addresses.pxi"
include "encode.pxi"
include "decode.pxi"


cdef enum:
    MAX_FIXED = 1 << 24  # bytes of a message's fixed part: the largest of VPP's has some 10 KB


cdef class Program:
    """One message or type, compiled: ops with fixed offsets, the image of its defaults, the class of its records.

    ``fields`` are tuples ``(name, kind, shape, conv, size, count, length_field, default, sub, enum)`` as
    ``contiv._fastpath.schema`` makes them; SchemaError when they do not fit together.
    """

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
        # records of single values alone cannot be changed, so that equal ones may be one object
        self.atomic = not transparent and all(
            self.ops[i].shape == CV_ONE and self.subs[i] is None for i in range(n)
        ) and self.c.tail == NULL

    def __dealloc__(self):
        PyMem_Free(self.ops)
        PyMem_Free(self.keys)
        PyMem_Free(self.image)

    cdef int lay_out(self) except -1:
        cdef int i, n = len(self.fields)
        cdef cv_op *op
        cdef Program sub
        cdef uint64_t bytes_, offset = 0, total = 0
        self.c.ops = self.ops
        self.c.nops = n
        for i in range(n):
            name, kind, shape, conv, size, count, length_field, default, sub, enum = self.fields[i]
            op = self.ops + i
            if not (0 <= size <= MAX_FIXED and 0 <= count <= MAX_FIXED):
                raise SchemaError(f"{self.name}.{name}: size of {max(size, count)}")
            op.kind, op.shape, op.conv, op.size, op.count = kind, shape, conv, size, count
            op.offset = 0 if self.union else offset
            if sub is not None:
                op.sub = &sub.c
                op.size = size = sub.c.size
            bytes_ = size
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
            bytes_ *= count if shape == CV_FIXED else 1
            if bytes_ > total:
                self.largest = i
                total = bytes_
            offset = max(offset, bytes_) if self.union else offset + bytes_
            if offset > MAX_FIXED:
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
        """Bytes of a numpy array for the variable array of field ``i``, or None when it is an ordinary sequence.

        Bytes for an array of structs are its records in wire layout already."""
        cdef const cv_op *op = self.ops + i
        if type(value) is bytes and op.kind == CV_STRUCT and op.shape == CV_VLA and op.size and op.sub.tail == NULL:
            if PyBytes_GET_SIZE(value) % op.size:
                raise EncodeError(f"{PyBytes_GET_SIZE(value)} bytes are no whole number of records of {op.size}")
            return value
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
        """Kind, shape, offset, size and count of field ``i``, for the bulk layer."""
        if not 0 <= i < <int>self.c.nops:
            raise IndexError(i)
        cdef cv_op *op = self.ops + i
        return {
            "kind": KIND_NAMES[op.kind],
            "shape": SHAPE_NAMES[op.shape],
            "conv": op.conv,
            "offset": self.c.size if op == self.c.tail else op.offset,
            "size": op.size,
            "count": op.count,
            "length_offset": op.length_offset,
            "length_kind": KIND_NAMES[op.length_kind],
        }

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


def pack_values(int conv, Py_ssize_t size, list values):
    """Addresses, prefixes or MACs (what ``encode`` takes for them) as packed bytes, ``size`` each. EncodeError."""
    cdef Py_ssize_t k, n = len(values)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, n * size)
    cdef uint8_t *at = <uint8_t *>PyBytes_AS_STRING(out)
    if conv and CONVERTED_SIZE[conv] != size:
        raise EncodeError(f"{size} bytes are not what conversion {conv} gives")
    for k in range(n):
        value = values[k]
        if conv == C_IP4:
            put_ip4(value, at + k * size)
        elif conv == C_IP6:
            put_ip6(value, at + k * size)
        elif conv == C_MAC:
            put_mac(value, at + k * size)
        elif conv == C_NONE:
            put_bytes(value, at + k * size, size)
        elif not put_converted(conv, value, at + k * size):
            raise EncodeError(f"{value!r} is no address or prefix")
    return out
