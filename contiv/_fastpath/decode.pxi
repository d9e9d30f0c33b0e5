# Records out of bytes that cv_measure has accepted. Included by codec.pyx.

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
        found = PyDict_GetItem(<dict>enum.members, number)
        return enum.member(number) if found == NULL else <object>found
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
    cdef object item = None
    if sub is not None and sub.c.tail != NULL:
        result = []
        for k in range(n):
            result.append(get_struct(sub, p + total, src, &size))
            total += size
    else:
        result = PyList_New(n)
        for k in range(n):
            # equal neighbours share one record (MPLS label stacks are 16 labels, nearly always all zero)
            if not (k and sub is not None and sub.atomic and memcmp(p + k * step, p + (k - 1) * step, step) == 0):
                item = get_element(owner, i, p + k * step, src)
            Py_INCREF(item)
            PyList_SET_ITEM(result, k, item)
        total = n * step
    if used != NULL:
        used[0] = total
    PyObject_GC_UnTrack(<void *>result)  # as for records: it is part of one
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
    # a record holds no cycle; without this a dump of thousands costs more in garbage collection than in decoding
    PyObject_GC_UnTrack(<void *>record)
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
