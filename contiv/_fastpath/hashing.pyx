# cython: binding=True
"""Backends of services, over ``csrc/hashing.h``."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

import numpy

cdef extern from "hashing.h":
    enum:
        CH_RECORD
    uint64_t ch_hash(const void *, size_t, uint64_t) nogil
    int ch_maglev(const uint64_t *, const uint32_t *, size_t, uint32_t *, uint32_t) nogil
    int ch_is_prime(uint32_t) nogil
    size_t ch_select(const uint64_t *, size_t, uint64_t, size_t, uint64_t *, uint32_t *) nogil
    size_t ch_unique_records(uint8_t *, size_t, uint64_t *) nogil
    int ch_read_ipv4(const char *, size_t, uint32_t *) nogil
    size_t ch_pack_records(const uint8_t *, const uint8_t *, size_t, uint8_t, uint8_t, uint8_t, uint8_t, uint16_t,
                           uint8_t *) nogil

cdef enum:  # of endpoints
    _READY = 1
    _DRAINING = 2
    _LOCAL = 4
    _ZONE_HINTED = 8
    _ZONE = 16
    _NODE_HINTED = 32
    _NODE = 64
    _SAME_ZONE = 128

READY, DRAINING, LOCAL, SAME_ZONE = _READY, _DRAINING, _LOCAL, _SAME_ZONE
ZONE_HINTED, ZONE, NODE_HINTED, NODE = _ZONE_HINTED, _ZONE, _NODE_HINTED, _NODE
RECORD_SIZE = CH_RECORD
UNREADABLE = 255
TABLE_SIZE = 65537


def fingerprint(const uint8_t[::1] data not None, uint64_t seed=0):
    return ch_hash(&data[0] if data.shape[0] else NULL, data.shape[0], seed)


def fingerprints(names, uint64_t seed=0):
    cdef size_t i, n = len(names)
    result = numpy.empty(n, numpy.uint64)
    cdef uint64_t[::1] view = result
    cdef bytes name
    for i in range(n):
        name = names[i]
        view[i] = ch_hash(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), seed)
    return result


def set_fingerprint(names, uint64_t seed=0):
    cdef uint64_t total = 0
    cdef bytes name
    cdef size_t n = 0
    for name in names:
        total += ch_hash(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), seed)
        n += 1
    return ch_hash(&total, sizeof(total), seed + n)


def is_prime(uint32_t n):
    return bool(ch_is_prime(n))


def maglev(backends, uint32_t size, weights=None):
    keys = numpy.ascontiguousarray(backends, numpy.uint64)
    shares = numpy.ones(len(keys), numpy.uint32) if weights is None else numpy.ascontiguousarray(weights, numpy.uint32)
    cdef const uint64_t[::1] key_view = keys
    cdef const uint32_t[::1] share_view = shares
    cdef size_t n = key_view.shape[0]
    cdef uint32_t[::1] table_view
    cdef int status
    if share_view.shape[0] != <Py_ssize_t>n:
        raise ValueError(f"{n} backends have {share_view.shape[0]} weights: give each its own")
    if not ch_is_prime(size):
        raise ValueError(f"size {size} is no prime, so that some backends would never reach some entries; take {TABLE_SIZE}")
    if n >= size:
        raise ValueError(f"{n} backends do not fit into {size} entries: take a larger prime")
    table = numpy.empty(size, numpy.uint32)
    table_view = table
    if n == 0 or not shares.any():
        raise ValueError("no backend has a weight: a table needs one")
    with nogil:
        status = ch_maglev(&key_view[0], &share_view[0], n, &table_view[0], size)
    if status == -2:
        raise MemoryError
    if status:
        raise ValueError(f"no table of size {size} for {n} backends")
    return table.astype(numpy.uint16) if n <= 65536 else table


def select(elements, uint64_t seed, size_t keep):
    keys = numpy.ascontiguousarray(elements, numpy.uint64)
    cdef const uint64_t[::1] view = keys
    cdef size_t n = view.shape[0]
    chosen = numpy.empty(min(n, keep), numpy.uint32)
    scratch = numpy.empty(2 * n, numpy.uint64)
    cdef uint32_t[::1] chosen_view
    cdef uint64_t[::1] scratch_view
    spare = numpy.empty(max(n, 1), numpy.uint32)
    cdef uint32_t[::1] spare_view = spare
    if n == 0 or keep == 0:
        return chosen
    scratch_view = scratch
    with nogil:
        n = ch_select(&view[0], n, seed, keep, &scratch_view[0], &spare_view[0])
    chosen[:] = spare[:n]
    return chosen


def ipv4(str text not None):
    cdef Py_ssize_t size
    cdef uint32_t address
    cdef const char *at = PyUnicode_AsUTF8AndSize(text, &size)
    return None if ch_read_ipv4(at, size, &address) else address


def read_endpoints(endpoints, networks):
    cdef Py_ssize_t n = len(endpoints), i, k, size
    cdef Py_ssize_t count = len(networks)
    cdef uint32_t address
    cdef uint32_t[8] value
    cdef uint32_t[8] mask
    cdef const char *text
    cdef uint8_t *packed
    cdef uint8_t *places
    if count > 8:
        raise ValueError(f"{count} networks: 8 at most")
    for k in range(count):
        value[k], mask[k] = networks[k]
    addresses = PyBytes_FromStringAndSize(NULL, 4 * n)
    within = PyBytes_FromStringAndSize(NULL, n)
    packed = <uint8_t *>PyBytes_AS_STRING(addresses)
    places = <uint8_t *>PyBytes_AS_STRING(within)
    for i in range(n):
        named = endpoints[i].address
        text = PyUnicode_AsUTF8AndSize(named, &size)
        if ch_read_ipv4(text, size, &address):
            address, places[i] = 0, UNREADABLE
        else:
            places[i] = count
            for k in range(count):
                if address & mask[k] == value[k]:
                    places[i] = k
                    break
        packed[4 * i] = address >> 24
        packed[4 * i + 1] = address >> 16 & 255
        packed[4 * i + 2] = address >> 8 & 255
        packed[4 * i + 3] = address & 255
    return addresses, within


def endpoint_flags(endpoints, bytes own not None, str node not None, str zone not None):
    cdef Py_ssize_t i, n = len(endpoints)
    cdef uint8_t flags
    if PyBytes_GET_SIZE(own) != n:
        raise ValueError(f"{n} endpoints and {PyBytes_GET_SIZE(own)} bytes: one each")
    result = PyBytes_FromStringAndSize(NULL, n)
    for i in range(n):
        endpoint = endpoints[i]
        flags = _READY if endpoint.ready else _DRAINING if endpoint.serving and endpoint.terminating else 0
        at = endpoint.node_name
        if at == node if at else PyBytes_AS_STRING(own)[i]:
            flags |= _LOCAL
        if zone and zone == endpoint.zone:
            flags |= _SAME_ZONE
        hints = endpoint.zones
        if hints:
            flags |= _ZONE_HINTED | (_ZONE if zone in hints else 0)
        hints = endpoint.nodes
        if hints:
            flags |= _NODE_HINTED | (_NODE if node in hints else 0)
        (<uint8_t *>PyBytes_AS_STRING(result))[i] = flags
    return result


def distinct(bytes data not None):
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(data)
    cdef uint8_t[256] seen
    cdef uint8_t[256] found
    cdef Py_ssize_t i, count = 0
    memset(seen, 0, sizeof(seen))
    for i in range(PyBytes_GET_SIZE(data)):
        seen[at[i]] = 1
    for i in range(256):
        if seen[i]:
            found[count] = i
            count += 1
    return PyBytes_FromStringAndSize(<const char *>found, count)


def pack_backends(parts, uint8_t mask, uint8_t want, *, uint8_t heavy=0, uint8_t weight=1):
    cdef size_t room = 0, count = 0, n
    cdef bytes addresses, flags
    cdef uint8_t *records
    cdef uint64_t *scratch
    for addresses, flags, _ in parts:
        n = PyBytes_GET_SIZE(flags)
        if <size_t>PyBytes_GET_SIZE(addresses) != 4 * n:
            raise ValueError(f"{PyBytes_GET_SIZE(addresses)} bytes are not {n} IPv4 addresses")
        room += n
    records = <uint8_t *>malloc(max(room, 1) * CH_RECORD)
    scratch = <uint64_t *>malloc(max(room, 1) * sizeof(uint64_t))
    try:
        if records == NULL or scratch == NULL:
            raise MemoryError
        for addresses, flags, port in parts:
            count += ch_pack_records(<const uint8_t *>PyBytes_AS_STRING(addresses),
                                     <const uint8_t *>PyBytes_AS_STRING(flags), PyBytes_GET_SIZE(flags), mask, want,
                                     heavy, weight, port, records + count * CH_RECORD)
        count = ch_unique_records(records, count, scratch)
        return PyBytes_FromStringAndSize(<char *>records, count * CH_RECORD)
    finally:
        free(records)
        free(scratch)


def double_weights(bytes records not None, uint32_t limit):
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(records)
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(records)
    cdef uint32_t total = 0
    cdef uint8_t *out
    for i in range(6, n, CH_RECORD):
        total += at[i]
    if 2 * total > limit or limit > 255:
        return records
    doubled = PyBytes_FromStringAndSize(<const char *>at, n)
    out = <uint8_t *>PyBytes_AS_STRING(doubled)
    for i in range(6, n, CH_RECORD):
        out[i] = 2 * at[i]
    return doubled


def bound_backends(bytes records not None, uint64_t seed, uint32_t limit):
    cdef size_t n = PyBytes_GET_SIZE(records) // CH_RECORD, i, kept = 0
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(records)
    cdef uint32_t total = 0, weight
    cdef uint64_t index
    cdef bint heavy
    cdef uint64_t *keys
    cdef uint64_t *scratch
    cdef uint32_t *chosen
    cdef uint8_t *out
    if PyBytes_GET_SIZE(records) % CH_RECORD:
        raise ValueError(f"{PyBytes_GET_SIZE(records)} bytes are no whole records of {CH_RECORD}")
    for i in range(n):
        total += at[i * CH_RECORD + 6]
    if total <= limit:
        return records
    keys = <uint64_t *>malloc(n * sizeof(uint64_t))
    scratch = <uint64_t *>malloc(2 * n * sizeof(uint64_t))
    chosen = <uint32_t *>malloc(n * sizeof(uint32_t))
    out = <uint8_t *>malloc(n * CH_RECORD)
    try:
        if keys == NULL or scratch == NULL or chosen == NULL or out == NULL:
            raise MemoryError
        for i in range(n):
            keys[i] = ch_hash(at + i * CH_RECORD, 6, 0)
        # with weights of one, as many as the limit; heavier ones cost more than one place
        ch_select(keys, n, seed, n, scratch, chosen)
        for i in range(n):
            chosen[i] = 0
        total = 0
        for heavy in (True, False):  # this node's own come first
            for i in range(n):
                index = scratch[2 * i + 1]
                weight = at[index * CH_RECORD + 6]
                if (weight > 1) == heavy and total + weight <= limit:
                    total += weight
                    chosen[index] = 1
        for i in range(n):
            if chosen[i]:
                memcpy(out + kept * CH_RECORD, at + i * CH_RECORD, CH_RECORD)
                kept += 1
        return PyBytes_FromStringAndSize(<char *>out, kept * CH_RECORD)
    finally:
        free(keys)
        free(scratch)
        free(chosen)
        free(out)
