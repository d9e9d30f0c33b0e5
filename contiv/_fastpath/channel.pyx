# cython: binding=True
"""One conversation with VPP without the socket: requests in, bytes out; bytes in, answers out.

``Channel`` numbers requests, frames them into one outgoing buffer, splits what came back into frames (``csrc/frame.h``),
finds the request by its context, decodes, and completes the caller's future. It knows neither socket nor event loop;
``contiv.vpp.transport`` moves the bytes, ``contiv.vpp.client`` makes calls of it.

Refuses: messages that the VPP lacks, more requests in flight than ``max_in_flight``, frames above ``max_frame``.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove

from contiv._fastpath.codec cimport (
    CV_I32, CV_ONE, Out, Program, cv_load16, cv_load32, cv_measure, cv_op, cv_store32, reserve,
)
from contiv._fastpath.errors import DecodeError

cdef extern from "frame.h":
    cdef enum:
        CF_HEADER, CF_MORE, CF_WHOLE, CF_TOO_LONG
    ctypedef struct cf_frame:
        const uint8_t *message
        uint32_t len
        size_t used
    int cf_next(const uint8_t *, size_t, uint32_t, cf_frame *) nogil
    void cf_write_header(uint8_t *, uint32_t) nogil

cdef double FOREVER = float("inf")


cdef class Incoming:
    """A message that VPP may send: its program, where its context and retval stand."""

    cdef readonly str name
    cdef readonly Program program
    cdef readonly int context_offset
    cdef int retval_offset

    def __init__(self, str name, Program program, context_offset):
        cdef cv_op *op
        self.name = name
        self.program = program
        self.context_offset = -1 if context_offset is None else context_offset
        self.retval_offset = -1
        if "retval" in program.index:
            op = program.ops + <int>program.index["retval"]
            if op.kind == CV_I32 and op.shape == CV_ONE:
                self.retval_offset = op.offset

    cdef int32_t retval(self, const uint8_t *message):
        return <int32_t>cv_load32(message + self.retval_offset) if self.retval_offset >= 0 else 0


cdef class Request:
    """A message that may be sent: its program and the number that this VPP gave it."""

    cdef readonly str name
    cdef readonly unsigned msg_id
    cdef Program _program
    cdef object schema

    def __init__(self, str name, Program program, unsigned msg_id):
        self.name, self._program, self.msg_id = name, program, msg_id

    @staticmethod
    def late(str name, schema, unsigned msg_id):
        """A request whose program is compiled when it is first sent."""
        cdef Request request = Request.__new__(Request)
        request.name, request.schema, request.msg_id = name, schema, msg_id
        return request

    cdef Program get(self):
        if self._program is None:
            self._program = self.schema.program(self.name)
        return self._program

    @property
    def program(self):
        """The compiled message."""
        return self.get()


cdef class Pending:
    """Who waits for a context, and what has come so far. The base completes one future with one reply."""

    cdef readonly Request request
    cdef readonly object future
    cdef readonly double deadline
    cdef readonly double timeout

    cdef bint answer(self, Channel channel, Incoming incoming, const uint8_t *message, uint32_t n) except -1:
        """Take one message; True when nothing more is to come for this context."""
        return True

    cdef int fail(self, error) except -1:
        if not self.future.done():
            self.future.set_exception(error)
        return 0


cdef class Single(Pending):
    """One reply. ``checked``: a retval other than 0 is an error."""

    cdef bint checked

    cdef bint answer(self, Channel channel, Incoming incoming, const uint8_t *message, uint32_t n) except -1:
        cdef int32_t retval
        if self.future.done():
            return True  # cancelled meanwhile
        try:
            record = incoming.program.read(message, n, False)
        except DecodeError as error:
            self.future.set_exception(error)
            return True
        retval = incoming.retval(message)
        if retval != 0 and self.checked:
            self.future.set_exception(channel.api_error(self.request.name, retval, reply=record))
        else:
            self.future.set_result(record)
        return True


cdef class Slot(Pending):
    """One reply of many: it goes to its place in a batch, whose future is done with the last."""

    cdef Batch batch
    cdef Py_ssize_t place

    cdef bint answer(self, Channel channel, Incoming incoming, const uint8_t *message, uint32_t n) except -1:
        cdef int32_t retval
        try:
            result = incoming.program.read(message, n, False)
        except DecodeError as error:
            result = error
        else:
            retval = incoming.retval(message)
            if retval != 0:
                result = channel.api_error(self.request.name, retval, reply=result)
        self.batch.put(self.place, result)
        return True

    cdef int fail(self, error) except -1:
        self.batch.put(self.place, error)
        return 0


cdef class Batch:
    """Results of a batch in the order of its requests, errors among them."""

    cdef readonly list results
    cdef readonly object future
    cdef Py_ssize_t left

    def __init__(self, Py_ssize_t n, future):
        self.results = [None] * n
        self.future = future
        self.left = n
        if n == 0:
            future.set_result(self.results)

    cpdef put(self, Py_ssize_t place, result):
        """One result; the future is done with the last."""
        self.results[place] = result
        self.left -= 1
        if self.left == 0 and not self.future.done():
            self.future.set_result(self.results)


cdef class Details(Pending):
    """Details of a dump; its future is done by the reply that ends it (of a control ping, or of a ``_get``).
    ``raw``: details stay bytes."""

    cdef list records
    cdef str stream
    cdef bint raw

    cdef bint answer(self, Channel channel, Incoming incoming, const uint8_t *message, uint32_t n) except -1:
        if self.future.done():
            return incoming.name != self.stream
        if self.raw and incoming.name == self.stream:
            self.records.append(PyBytes_FromStringAndSize(<const char *>message, n))
            return False
        try:
            record = incoming.program.read(message, n, False)
        except DecodeError as error:
            self.future.set_exception(error)
            return incoming.name != self.stream
        if incoming.name == self.stream:
            self.records.append(record)
            return False
        self.future.set_result((record, self.records))
        return True


cdef class End(Pending):
    """The control ping behind a dump: its reply completes the dump."""

    cdef Details details
    cdef uint32_t context

    cdef bint answer(self, Channel channel, Incoming incoming, const uint8_t *message, uint32_t n) except -1:
        channel.pending.pop(self.context, None)
        if not self.details.future.done():
            self.details.future.set_result((None, self.details.records))
        return True


cdef class Many(Pending):
    """Replies of one kind to contexts ``base .. base + n``, copied to the rows of one array as they come."""

    cdef readonly uint32_t base
    cdef readonly uint32_t n
    cdef readonly object rows
    cdef Incoming expected
    cdef uint8_t[:, ::1] view
    cdef uint8_t[::1] seen
    cdef uint32_t left
    cdef Py_ssize_t size

    cdef int take(self, uint32_t place, Incoming incoming, const uint8_t *message, uint32_t n) except -1:
        if incoming is not self.expected or self.seen[place]:
            return 0
        if n < self.size:
            self.fail(DecodeError(incoming.name, n))
            return 0
        memcpy(&self.view[place, 0], message, self.size)
        self.seen[place] = 1
        self.left -= 1
        if self.left == 0 and not self.future.done():
            self.future.set_result(self.rows)
        return 0


cdef class Channel:
    """Requests to bytes and bytes to answers, for one connection.

    ``incoming`` maps message numbers to ``Incoming`` (a function, asked once for each number), ``on_event(name,
    record)`` takes what has no context, ``api_error`` makes the error of a retval.
    """

    cdef readonly dict pending
    cdef readonly uint32_t client_index
    cdef readonly unsigned max_in_flight
    cdef readonly uint32_t max_frame
    cdef readonly object api_error
    cdef readonly double next_deadline
    cdef readonly long long sent
    cdef readonly long long received
    cdef readonly long long strays
    cdef dict known
    cdef list many
    cdef int last_number
    cdef object last
    cdef object incoming
    cdef object on_event
    cdef uint32_t context
    cdef Out out
    cdef bytearray rx
    cdef Py_ssize_t start
    cdef Py_ssize_t end

    def __cinit__(self, *, incoming, on_event, api_error, uint32_t client_index=0, unsigned max_in_flight=65536,
                  uint32_t max_frame=1 << 28, Py_ssize_t room=1 << 18):
        self.incoming, self.on_event, self.api_error = incoming, on_event, api_error
        self.client_index, self.max_in_flight, self.max_frame = client_index, max_in_flight, max_frame
        self.pending, self.known, self.many = {}, {}, []
        self.next_deadline = FOREVER
        self.context = 0
        self.last_number = -1
        self.rx = bytearray(room)

    def __dealloc__(self):
        if self.out.heap:
            free(self.out.data)

    # -- out --------------------------------------------------------------------------------------------------------

    @property
    def outgoing(self):
        """Bytes that wait to be written."""
        return self.out.len

    def take(self):
        """The bytes to be written; they are the caller's now."""
        data = PyBytes_FromStringAndSize(<const char *>self.out.data, self.out.len)
        self.out.len = 0
        if self.out.cap > (1 << 22):  # what one burst needed is given back
            free(self.out.data)
            self.out.data, self.out.cap, self.out.heap = NULL, 0, False
        return data

    cdef uint32_t number(self):
        # 0 is no context: VPP's events have none, and vpp_papi takes 0 for an event
        while True:
            self.context = (self.context + 1) & 0xFFFFFFFF
            if self.context != 0 and self.context not in self.pending and not self.taken(self.context):
                return self.context

    cdef bint taken(self, uint32_t context) except -1:
        cdef Many many
        for each in self.many:
            many = <Many>each
            if context - many.base < many.n:
                return True
        return False

    cdef int write(self, Request request, uint32_t context, dict fields) except -1:
        cdef Py_ssize_t at = self.out.len
        reserve(&self.out, CF_HEADER)
        self.out.len += CF_HEADER
        try:
            request.get().fill(&self.out, request.msg_id, self.client_index, context, fields)
        except BaseException:
            self.out.len = at
            raise
        cf_write_header(self.out.data + at, <uint32_t>(self.out.len - at - CF_HEADER))
        self.sent += 1
        return 0

    cdef int expect(self, uint32_t context, Pending pending, Request request, future, double timeout,
                    double deadline) except -1:
        pending.request, pending.future, pending.timeout, pending.deadline = request, future, timeout, deadline
        self.pending[context] = pending
        if deadline < self.next_deadline:
            self.next_deadline = deadline
        return 0

    @property
    def full(self):
        """Whether no more requests may be in flight."""
        return len(self.pending) >= self.max_in_flight

    def call(self, Request request, dict fields, future, double timeout, double deadline, bint checked=True):
        """Send ``request``; ``future`` gets the reply."""
        cdef uint32_t context = self.number()
        cdef Single pending = Single.__new__(Single)
        self.write(request, context, fields)
        pending.checked = checked
        self.expect(context, pending, request, future, timeout, deadline)

    def add(self, Batch batch, Py_ssize_t place, Request request, dict fields, double timeout, double deadline):
        """Send ``request`` as one of a batch."""
        cdef uint32_t context = self.number()
        cdef Slot pending = Slot.__new__(Slot)
        self.write(request, context, fields)
        pending.batch, pending.place = batch, place
        self.expect(context, pending, request, None, timeout, deadline)

    def dump(self, Request request, dict fields, str stream, Request ping, future, double timeout, double deadline,
             bint raw=False):
        """Send ``request``, and ``ping`` behind it unless that is None; ``future`` gets ``(reply or None, details)``,
        the details as bytes if ``raw``."""
        cdef uint32_t context = self.number()
        cdef Details pending = Details.__new__(Details)
        cdef End end
        cdef uint32_t end_context
        pending.records, pending.stream, pending.raw = [], stream, raw
        self.write(request, context, fields)
        self.expect(context, pending, request, future, timeout, deadline)
        if ping is not None:
            end = End.__new__(End)
            end.details, end.context = pending, context
            end_context = self.number()
            self.write(ping, end_context, {})
            self.expect(end_context, end, request, future, timeout, deadline)

    def reserve_contexts(self, uint32_t n):
        """The first of ``n`` contexts in a row that nobody uses."""
        cdef uint64_t base = <uint64_t>self.context + 1
        cdef bint clear = False
        if base + n > 0xFFFFFFFF:
            base = 1
        while not clear:
            clear = True
            for context in [*self.pending, *((<Many>each).base for each in self.many)]:
                if base <= <uint64_t>context < base + n:
                    base, clear = <uint64_t>context + 1, False
            for each in self.many:
                if (<Many>each).base < base < <uint64_t>(<Many>each).base + (<Many>each).n:
                    base, clear = <uint64_t>(<Many>each).base + (<Many>each).n, False
        self.context = <uint32_t>(base + n - 1)
        return base

    def expect_many(self, Request request, Incoming expected, uint32_t base, rows, future, double timeout,
                    double deadline):
        """Wait for replies to the contexts from ``base`` on, one for each row of the array ``rows``; ``future`` gets
        ``rows``. The caller writes the requests."""
        cdef Many many = Many.__new__(Many)
        many.base, many.n, many.rows, many.expected = base, rows.shape[0], rows, expected
        many.view, many.seen = rows, bytearray(rows.shape[0])
        many.left, many.size = rows.shape[0], rows.shape[1]
        self.many.append(many)
        self.expect(base, many, request, future, timeout, deadline)
        self.sent += many.n

    def forget_many(self, uint32_t base):
        """The contexts from ``base`` on are free again."""
        self.many = [each for each in self.many if (<Many>each).base != base]
        self.pending.pop(base, None)

    def incoming_of(self, unsigned number):
        """The ``Incoming`` of a message number, or False."""
        found = self.known.get(number)
        if found is None:
            found = self.known[number] = self.incoming(number)
        return found

    def send(self, Request request, dict fields):
        """Send ``request`` without waiting for anything."""
        self.write(request, self.number(), fields)

    # -- in ---------------------------------------------------------------------------------------------------------

    def get_buffer(self):
        """Where the next bytes from VPP go."""
        if self.start == self.end:
            self.start = self.end = 0
        return memoryview(self.rx)[self.end:]

    cdef int make_room(self, size_t frame) except -1:
        cdef Py_ssize_t left = self.end - self.start
        cdef Py_ssize_t wanted = max(<Py_ssize_t>frame, CF_HEADER)
        cdef bytearray bigger
        cdef char *data = PyByteArray_AS_STRING(self.rx)
        if self.start + wanted <= len(self.rx) and self.end < len(self.rx):
            return 0
        if wanted <= len(self.rx) and left < len(self.rx):
            memmove(data, data + self.start, left)
        else:
            bigger = bytearray(max(wanted, 2 * len(self.rx)))
            memcpy(PyByteArray_AS_STRING(bigger), data + self.start, left)
            self.rx = bigger
        self.start, self.end = 0, left
        return 0

    def received_bytes(self, Py_ssize_t n):
        """``n`` bytes stand in the buffer that get_buffer gave: take every whole message. DecodeError: give up."""
        cdef cf_frame frame
        cdef int state
        cdef bytearray rx = self.rx  # stays, should a callback come back here
        self.end += n
        while True:
            state = cf_next(<uint8_t *>PyByteArray_AS_STRING(rx) + self.start, self.end - self.start, self.max_frame,
                            &frame)
            if state != CF_WHOLE:
                break
            self.start += frame.used
            self.dispatch(frame.message, frame.len)
        if state == CF_TOO_LONG:
            raise DecodeError("frame", 8, f"length of {frame.len} bytes is above the limit of {self.max_frame}")
        self.make_room(frame.used)

    cdef int dispatch(self, const uint8_t *message, uint32_t n) except -1:
        cdef Incoming incoming
        cdef uint32_t context
        cdef Pending pending
        cdef Many many
        cdef int number
        self.received += 1
        if n < 2:
            self.strays += 1
            return 0
        number = cv_load16(message)
        if number == self.last_number:
            found = self.last
        else:
            found = self.last = self.incoming_of(number)
            self.last_number = number
        if found is False:
            self.strays += 1  # a message that the schema does not name
            return 0
        incoming = <Incoming>found
        if incoming.context_offset < 0:
            self.on_event(incoming.name, incoming.program.read(message, n, False))
            return 0
        if n < <uint32_t>incoming.context_offset + 4:
            raise DecodeError(incoming.name, n)
        context = cv_load32(message + incoming.context_offset)
        for each in self.many:
            many = <Many>each
            if context - many.base < many.n:
                return many.take(context - many.base, incoming, message, n)
        waiting = self.pending.get(context)
        if waiting is None:
            self.strays += 1  # timed out or cancelled before
            return 0
        pending = <Pending>waiting
        if pending.answer(self, incoming, message, n):
            self.pending.pop(context, None)
        return 0

    # -- ends -------------------------------------------------------------------------------------------------------

    def expire(self, double now, make_error):
        """Fail what is overdue with ``make_error(name, timeout)``; the next deadline comes back."""
        cdef Pending pending
        cdef double soonest = FOREVER
        overdue = []
        for context, waiting in self.pending.items():
            pending = <Pending>waiting
            if pending.deadline <= now:
                overdue.append((context, pending))
            elif pending.deadline < soonest:
                soonest = pending.deadline
        for context, waiting in overdue:
            pending = <Pending>waiting
            self.pending.pop(context, None)
            pending.fail(make_error(pending.request.name, pending.timeout))
        self.next_deadline = soonest
        return soonest

    def fail_all(self, make_error):
        """Fail everything that waits with ``make_error(name)``; how many that were."""
        cdef Pending pending
        waiting, self.pending = self.pending, {}
        self.next_deadline = FOREVER
        self.out.len = 0
        for each in waiting.values():
            pending = <Pending>each
            pending.fail(make_error(pending.request.name))
        return len(waiting)


def split_frames(bytearray buffer, Py_ssize_t n, uint32_t limit=1 << 28):
    """``(messages, used)``: the whole messages in the first ``n`` bytes of ``buffer`` as bytes, and how many bytes of it
    they and their headers take. DecodeError for a length above ``limit``. For blocking clients."""
    cdef cf_frame frame
    cdef Py_ssize_t at = 0
    cdef int state
    messages = []
    if not 0 <= n <= len(buffer):
        raise IndexError(n)
    while True:
        state = cf_next(<uint8_t *>PyByteArray_AS_STRING(buffer) + at, n - at, limit, &frame)
        if state != CF_WHOLE:
            break
        messages.append(PyBytes_FromStringAndSize(<const char *>frame.message, frame.len))
        at += frame.used
    if state == CF_TOO_LONG:
        raise DecodeError("frame", at + 8, f"length of {frame.len} bytes is above the limit of {limit}")
    return messages, at
