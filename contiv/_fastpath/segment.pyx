# cython: binding=True
"""A mapped stats segment, over ``csrc/stats.h``: names to entries, entries to places. ``contiv._fastpath.stats`` makes
arrays of the places. Everything here can raise ``Changed``: what VPP changes meanwhile looks like nonsense."""

from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

cdef extern from "stats.h":
    cdef enum:
        CS_NAME, CS_ENTRY
    cdef enum cs_type:
        CS_ILLEGAL, CS_SCALAR, CS_SIMPLE, CS_COMBINED, CS_NAMES, CS_EMPTY, CS_SYMLINK, CS_HISTOGRAM, CS_RING, CS_GAUGE
    ctypedef struct cs_segment:
        const uint8_t *data
        size_t size
    ctypedef struct cs_entry:
        uint32_t type
        uint64_t value
        const char *name
    int cs_check(const cs_segment *) nogil
    int64_t cs_epoch(const cs_segment *) nogil
    int64_t cs_offset(const cs_segment *, uint64_t, uint64_t) nogil
    int64_t cs_vector(const cs_segment *, uint64_t, uint32_t, uint32_t *) nogil
    int64_t cs_directory(const cs_segment *, uint32_t *) nogil
    void cs_read_entry(const cs_segment *, int64_t, cs_entry *) nogil
    uint64_t cs_u64(const cs_segment *, int64_t) nogil

SCALAR, SIMPLE, COMBINED, NAMES, SYMLINK, HISTOGRAM, RING, GAUGE = (
    CS_SCALAR, CS_SIMPLE, CS_COMBINED, CS_NAMES, CS_SYMLINK, CS_HISTOGRAM, CS_RING, CS_GAUGE,
)


class Changed(Exception):
    """VPP changed the segment while it was read, or it is damaged: read again."""


cdef class Segment:
    """The mapping and its checks. ``mapping`` is bytes-like and stays mapped as long as this lives."""

    cdef cs_segment c
    cdef Py_buffer view
    cdef bint mapped
    cdef readonly object mapping

    def __cinit__(self, mapping):
        self.mapping = mapping
        PyObject_GetBuffer(mapping, &self.view, PyBUF_SIMPLE)
        self.mapped = True
        self.c.data, self.c.size = <const uint8_t *>self.view.buf, self.view.len

    def __dealloc__(self):
        if self.mapped:
            PyBuffer_Release(&self.view)

    def check(self):
        """0 when it can be read, -1 too small, -2 another version."""
        return cs_check(&self.c)

    def epoch(self):
        """The epoch; -1 while VPP changes something."""
        return cs_epoch(&self.c)

    def directory(self):
        """``{name: (index, type, value)}`` of all entries. Changed."""
        cdef uint32_t n = 0, i
        cdef int64_t at = cs_directory(&self.c, &n)
        cdef cs_entry entry
        cdef const char *end
        cdef dict found = {}
        if at < 0:
            raise Changed("directory")
        for i in range(n):
            cs_read_entry(&self.c, at + <int64_t>i * CS_ENTRY, &entry)
            if entry.type == CS_EMPTY or entry.type == CS_ILLEGAL:
                continue
            end = <const char *>memchr(entry.name, 0, CS_NAME)
            if end == NULL:
                raise Changed("name")
            found[entry.name[:end - entry.name].decode("utf-8", "replace")] = (i, entry.type, entry.value)
        return found

    def entry(self, uint32_t index):
        """``(type, value)`` of one entry now. Changed."""
        cdef uint32_t n = 0
        cdef int64_t at = cs_directory(&self.c, &n)
        cdef cs_entry entry
        if at < 0 or index >= n:
            raise Changed("entry")
        cs_read_entry(&self.c, at + <int64_t>index * CS_ENTRY, &entry)
        return entry.type, entry.value

    def vector(self, uint64_t pointer, uint32_t element):
        """``(offset, length)`` of a vector of elements of that many bytes. Changed."""
        cdef uint32_t n = 0
        cdef int64_t at = cs_vector(&self.c, pointer, element, &n)
        if at < 0:
            raise Changed("vector")
        return at, n

    def pointers(self, uint64_t pointer):
        """The pointers in a vector of pointers. Changed."""
        cdef uint32_t n = 0, i
        cdef int64_t at = cs_vector(&self.c, pointer, 8, &n)
        if at < 0:
            raise Changed("vector")
        return [cs_u64(&self.c, at + 8 * <int64_t>i) for i in range(n)]

    def offset(self, uint64_t pointer, uint64_t size):
        """Offset of ``size`` bytes at a pointer. Changed."""
        cdef int64_t at = cs_offset(&self.c, pointer, size)
        if at < 0:
            raise Changed("pointer")
        return at

    def names(self, uint64_t pointer):
        """The texts of a vector of C strings; None for a place without one. Changed."""
        cdef uint32_t n
        cdef int64_t at
        cdef const char *text
        cdef const char *end
        result = []
        for each in self.pointers(pointer):
            n = 0
            at = cs_vector(&self.c, each, 1, &n)
            if at < 0:
                raise Changed("name")
            if each == 0:
                result.append(None)
                continue
            text = <const char *>self.c.data + at
            end = <const char *>memchr(text, 0, n)
            result.append(text[:(n if end == NULL else end - text)].decode("utf-8", "replace"))
        return result
