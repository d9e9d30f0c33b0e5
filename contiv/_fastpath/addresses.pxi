# Addresses, prefixes and MAC addresses: Python values to packed bytes and back. Included by codec.pyx.

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
# None of them holds a cycle: without garbage collection's bookkeeping a large dump takes a quarter of the time.

cdef object object_new = object.__new__
cdef list MASKS4 = [IPv4Network((0, n)).netmask for n in range(33)]
cdef list MASKS6 = [IPv6Network((0, n)).netmask for n in range(129)]
cdef uint32_t MASK4[33]
cdef int _n
for _n in range(33):
    MASK4[_n] = <uint32_t>int(MASKS4[_n])
cdef bint direct = True


cdef inline int untrack(object value) except -1:
    if PyObject_IS_GC(value):
        PyObject_GC_UnTrack(<void *>value)
    return 0


cdef inline object ip4_from(uint32_t value):
    if not direct:
        return IPv4Address(value)
    address = PyType_GenericAlloc(<PyTypeObject *>IPv4Address, 0)
    address._ip = value
    untrack(address)
    return address


cdef inline object ip6_from(const uint8_t *raw):
    if not direct:
        return IPv6Address(raw[:16])
    address = PyType_GenericAlloc(<PyTypeObject *>IPv6Address, 0)
    address._ip = (<object>cv_load64(raw) << 64) | cv_load64(raw + 8)
    address._scope_id = None
    untrack(address)
    return address


cdef object net4_from(uint32_t value, int length):
    if not direct or length == 31:
        return IPv4Network((value, length), False)
    network = object_new(IPv4Network)
    address = ip4_from(value & MASK4[length])
    network.network_address = address
    network.netmask = MASKS4[length]
    network._prefixlen = length
    if length == 32:
        network.hosts = partial(list, (address,))
    untrack(network)
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
    network = object_new(IPv6Network)
    network.network_address = ip6_from(masked)
    network.netmask = MASKS6[length]
    network._prefixlen = length
    untrack(network)
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
