# cython: binding=True
"""Messages to arrays and back, over ``csrc/bulk.h``: the compiled part of ``contiv._fastpath.bulk``."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

import numpy

cdef extern from "bulk.h":
    ctypedef struct cb_layout:
        uint32_t fixed
        uint32_t element
        uint32_t count_offset
        uint8_t count_kind
    void cb_join(const cb_layout *, size_t, const uint8_t *, const uint8_t *, const uint32_t *, int, uint8_t *) nogil
    int64_t cb_split_fixed(const cb_layout *, size_t, const uint8_t *const *, const size_t *, uint8_t *, uint32_t *,
                           size_t *) nogil
    void cb_split_tails(const cb_layout *, size_t, const uint8_t *const *, const uint32_t *, uint8_t *) nogil

cdef enum:
    FRAME = 16


class Truncated(Exception):
    """``index`` is the message that ends too early, ``size`` its bytes."""

    def __init__(self, index, size):
        super().__init__(index, size)
        self.index, self.size = index, size


cdef class Layout:
    """Fixed bytes, bytes of one element (0: none), where the count stands and of which kind it is."""

    cdef cb_layout c

    def __init__(self, uint32_t fixed, uint32_t element=0, uint32_t count_offset=0, uint8_t count_kind=0):
        if element and count_offset + 4 > fixed and count_offset + (1, 1, 2, 2, 4, 4)[count_kind] > fixed:
            raise ValueError("count stands outside of the fixed part")
        self.c.fixed, self.c.element = fixed, element
        self.c.count_offset, self.c.count_kind = count_offset, count_kind


def join(Layout layout, const uint8_t[:, ::1] fixed, const uint8_t[::1] tails, const uint32_t[::1] counts,
         bint framed):
    """``fixed`` parts with their ``counts`` elements out of ``tails`` behind them, as one array of bytes."""
    cdef size_t n = fixed.shape[0], i
    cdef uint64_t total = 0
    cdef uint64_t elements = 0
    if fixed.shape[1] != layout.c.fixed or <size_t>counts.shape[0] != n:
        raise ValueError("arrays do not fit the layout")
    for i in range(n):
        elements += counts[i]
    if elements * layout.c.element != <uint64_t>tails.shape[0]:
        raise ValueError("counts do not fit the elements")
    total = n * (<uint64_t>layout.c.fixed + (FRAME if framed else 0)) + tails.shape[0]
    out = numpy.empty(total, numpy.uint8)
    cdef uint8_t[::1] view = out
    if n:
        with nogil:
            cb_join(&layout.c, n, &fixed[0, 0], &tails[0] if tails.shape[0] else NULL, &counts[0], framed, &view[0])
    return out


def split(Layout layout, list messages):
    """``(fixed, counts, tails)`` of messages (bytes objects) as arrays. Truncated."""
    cdef size_t n = len(messages), i, bad = 0
    cdef const uint8_t **at = <const uint8_t **>malloc(max(n, 1) * sizeof(uint8_t *))
    cdef size_t *lens = <size_t *>malloc(max(n, 1) * sizeof(size_t))
    cdef int64_t elements
    fixed = numpy.empty((n, layout.c.fixed), numpy.uint8)
    counts = numpy.zeros(n, numpy.uint32)
    cdef uint8_t[:, ::1] fixed_view = fixed
    cdef uint32_t[::1] counts_view = counts
    cdef uint8_t[::1] tails_view
    try:
        if at == NULL or lens == NULL:
            raise MemoryError
        if n == 0 or layout.c.fixed == 0:
            return fixed, counts, numpy.empty(0, numpy.uint8)
        for i in range(n):
            message = messages[i]
            if type(message) is not bytes:
                raise TypeError("messages must be bytes")
            at[i] = <const uint8_t *>PyBytes_AS_STRING(message)
            lens[i] = PyBytes_GET_SIZE(message)
        elements = cb_split_fixed(&layout.c, n, at, lens, &fixed_view[0, 0], &counts_view[0], &bad)
        if elements < 0:
            raise Truncated(bad, lens[bad])
        tails = numpy.empty(elements * layout.c.element, numpy.uint8)
        tails_view = tails
        if tails_view.shape[0]:
            cb_split_tails(&layout.c, n, at, &counts_view[0], &tails_view[0])
        return fixed, counts, tails
    finally:
        free(at)
        free(lens)
