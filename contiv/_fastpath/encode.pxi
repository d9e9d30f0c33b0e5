# Python values over the image of a program. Included by codec.pyx.

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
        if not out.heap and out.len:
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
        number = value if PyLong_CheckExact(value) else PyNumber_Index(value)
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
        number = value if PyLong_CheckExact(value) else PyNumber_Index(value)
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
    cdef Py_ssize_t n
    value = as_sequence(value)
    n = len(value)
    if n != op.count:
        raise EncodeError(f"{n} elements given, {op.count} expected")
    for item in value:
        if k == n:
            break  # grew while its items were read
        put_item(owner, i, item, out, at + k * op.size, k)
        k += 1
    return 0


cdef object as_sequence(value):
    if isinstance(value, (list, tuple)):
        return value
    try:
        return list(value)
    except TypeError:
        raise EncodeError(f"array expected, got {value!r}") from None


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
    value = as_sequence(value)
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
