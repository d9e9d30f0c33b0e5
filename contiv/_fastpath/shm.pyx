# cython: binding=True
"""Bulk through shared memory, over ``csrc/shm.h``: one connection a process. ``contiv.vpp.shm`` decides when to use it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

cdef extern from "shm.h":
    ctypedef int atomic_int
    ctypedef struct csm_job:
        const uint8_t *requests
        uint32_t n
        uint32_t stride
        uint32_t skip
        uint32_t size
        uint32_t window
        uint16_t reply_id
        uint32_t context_offset
        uint32_t base
        uint8_t *rows
        uint32_t row_size
        uint8_t *seen
        double timeout_s
        int stop
        uint32_t answered
        uint32_t strays
        uint32_t refused
    const char *csm_error() nogil
    int csm_connect(const char *, const char *, const char *, int, double) nogil
    int csm_message_index(const char *) nogil
    int csm_exchange(csm_job *) nogil
    int csm_disconnect(double) nogil

PROBLEMS = {
    -1: "VPP's client library cannot be used",
    -2: "VPP's client library could not connect",
    -3: "VPP did not answer through shared memory in time",
    -4: "given up, for VPP is gone",
    -5: "shared memory was given up or taken before in this process",
}


class ShmError(Exception):
    """``status`` of csm_status, with words."""

    def __init__(self, status):
        detail = csm_error().decode("utf-8", "replace")
        super().__init__(PROBLEMS[status] + (f": {detail}" if detail and status > -3 else ""))
        self.status = status


cdef list ABANDONED = []  # arrays that a thread of VPP's library may still write to: never freed


def connect(str library, str name, str prefix, int queue_length, double timeout_s):
    """Connect through ``library``. ShmError."""
    cdef bytes path = library.encode(), client = name.encode(), root = prefix.encode()
    cdef const char *c_path = path
    cdef const char *c_client = client
    cdef const char *c_root = root
    cdef int status
    with nogil:
        status = csm_connect(c_path, c_client, c_root, queue_length, timeout_s)
    if status:
        raise ShmError(status)


def message_index(str key):
    """VPP's number of ``name_crc``, 0 when it has none."""
    return csm_message_index(key.encode())


def disconnect(double timeout_s):
    """Leave VPP."""
    with nogil:
        csm_disconnect(timeout_s)


cdef class Exchange:
    """Requests of one size, and the rows that their replies go to. ``run`` blocks without the GIL; ``stop`` ends it."""

    cdef csm_job *job
    cdef object requests
    cdef object rows
    cdef object seen
    cdef bint abandoned

    def __cinit__(self, const uint8_t[:, ::1] requests, uint8_t[:, ::1] rows, *, uint32_t skip, uint32_t base,
                  uint16_t reply_id, uint32_t context_offset, uint32_t window, double timeout_s):
        cdef uint8_t[::1] seen
        if requests.shape[0] != rows.shape[0] or requests.shape[0] == 0 or skip + 6 > requests.shape[1]:
            raise ValueError("requests and rows do not fit")
        self.job = <csm_job *>calloc(1, sizeof(csm_job))
        if self.job == NULL:
            raise MemoryError
        self.requests, self.rows, self.seen = requests, rows, bytearray(requests.shape[0])
        seen = self.seen
        self.job.requests, self.job.rows, self.job.seen = &requests[0, 0], &rows[0, 0], &seen[0]
        self.job.n, self.job.stride, self.job.skip = requests.shape[0], requests.shape[1], skip
        self.job.size = requests.shape[1] - skip
        self.job.row_size, self.job.base, self.job.reply_id = rows.shape[1], base, reply_id
        self.job.context_offset, self.job.window, self.job.timeout_s = context_offset, window, timeout_s

    def __dealloc__(self):
        if not self.abandoned:
            free(self.job)

    def run(self):
        """Exchange everything. ShmError."""
        cdef int status
        with nogil:
            status = csm_exchange(self.job)
        if status:
            self.abandoned = True
            ABANDONED.append((self.requests, self.rows, self.seen))
            raise ShmError(status)
        if self.job.refused:
            raise ShmError(-2)

    def stop(self):
        """Give up: VPP is gone. May be called from any thread."""
        self.job.stop = 1
