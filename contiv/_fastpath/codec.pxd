# What other extensions may use of the codec: programs and their C side.

from cpython.object cimport PyObject
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

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

# a growing buffer: on the caller's stack until that is too small
cdef struct Out:
    uint8_t *data
    Py_ssize_t len
    Py_ssize_t cap
    bint heap

cdef int reserve(Out *out, Py_ssize_t more) except -1


cdef class Program:
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
    cdef bint atomic
    cdef object packer
    cdef dict dtypes

    cdef int lay_out(self) except -1
    cdef int note_header(self, name, int offset) except -1
    cdef int attach_count(self, int i, cv_op *op, length_field) except -1
    cdef int draw_image(self) except -1
    cdef int find(self, name) except -1
    cdef bytes pack_array(self, int i, value)
    cdef int fill(self, Out *out, unsigned msg_id, uint32_t client_index, uint32_t context, dict fields) except -1
    cdef object read(self, const uint8_t *data, size_t n, bint raw)
