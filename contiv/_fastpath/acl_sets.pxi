# Addresses in and out, sets of them, sets of ports. Included by acl.pyx.

cdef enum:
    FEW = 8  # ranges of a set below which sorting all of them together beats merging one by one


# ---- values of Python's ----

cdef int put_number(value, int version, uint8_t *out) except -1:
    """An address as a number to network order; ``out`` has 16 bytes."""
    cdef uint64_t high = 0, low
    cdef int i
    value = PyNumber_Index(value)
    try:
        if version == 4:
            low = value
            if low > 0xFFFFFFFF:
                raise ValueError(f"{value} is no IPv4 address")
            for i in range(4):
                out[i] = <uint8_t>(low >> (24 - 8 * i))
            return 0
        if version != 6:
            raise ValueError(f"IP version 4 or 6 expected, got {version}")
        high = value >> 64
        low = value & 0xFFFFFFFFFFFFFFFF
    except OverflowError:
        raise ValueError(f"{value} is no IPv{version} address") from None
    for i in range(8):
        out[i] = <uint8_t>(high >> (56 - 8 * i))
        out[8 + i] = <uint8_t>(low >> (56 - 8 * i))
    return 0


cdef object number_of(const uint8_t *address, bint is_ip6):
    cdef uint64_t high = 0, low = 0
    cdef int i
    for i in range(8 if is_ip6 else 4):
        high = high << 8 | address[i]
    if not is_ip6:
        return high
    for i in range(8, 16):
        low = low << 8 | address[i]
    return <object>high << 64 | low


cdef int put_text(str text, uint8_t *prefix) except -1:
    """Text of an address or a network to family, address and length: 18 bytes."""
    cdef Py_ssize_t size
    cdef const char *data = PyUnicode_AsUTF8AndSize(text, &size)
    memset(prefix, 0, ACL_PREFIX)
    if cv_parse_prefix(data, size, prefix) == 0:
        return 0
    memset(prefix, 0, ACL_PREFIX)
    if cv_parse_ip4(data, size, prefix + 1) == 0:
        prefix[17] = 32
    elif cv_parse_ip6(data, size, prefix + 1) == 0:
        prefix[0] = 1
        prefix[17] = 128
    else:
        raise ValueError(f"{text!r} is neither an IP address nor a network")
    return 0


cdef int put_prefix(item, uint8_t *prefix) except -1:
    """What names an address or a network to family, address and length: 18 bytes."""
    cdef int version
    if isinstance(item, str):
        return put_text(item, prefix)
    if not isinstance(item, (Address, Network)):
        raise TypeError(f"address or network expected, got {type(item).__name__}")
    version = item.version
    put_number(item.value, version, prefix + 1)
    length = item.length if isinstance(item, Network) else 32 if version == 4 else 128
    if not 0 <= length <= (32 if version == 4 else 128):
        raise ValueError(f"prefix length {length} is not one of IPv{version}")
    prefix[0] = version == 6
    prefix[17] = <uint8_t>length
    return 0


cdef int put_address(item, uint8_t *address) except -1:
    """1 for IPv6, 0 for IPv4; ``address`` has 16 bytes."""
    cdef uint8_t prefix[ACL_PREFIX]
    put_prefix(item, prefix)
    if isinstance(item, Network) or prefix[17] != (128 if prefix[0] else 32):
        raise ValueError(f"address expected, got network {item}")
    memset(address, 0, 16)
    memcpy(address, prefix + 1, 16 if prefix[0] else 4)
    return prefix[0]


cdef object network_of(const uint8_t *prefix):
    return Network(6 if prefix[0] else 4, number_of(prefix + 1, prefix[0]), prefix[17])


# ---- addresses ----

cdef class Peers:
    cdef acl_set s
    cdef int64_t hashed  # 0: not yet
    cdef Py_ssize_t counted  # prefixes, -1: not yet

    def __cinit__(self):
        self.counted = -1

    def __dealloc__(self):
        acl_set_free(&self.s)

    @classmethod
    def of(cls, items):
        if isinstance(items, Peers):
            return items
        cdef Peers peers = Peers.__new__(Peers)
        cdef size_t room[2]
        cdef uint8_t prefix[ACL_PREFIX]
        cdef list sets = None
        room[0] = room[1] = 0
        if isinstance(items, (str, Address, Network)):
            items = (items,)
        for item in items:
            if isinstance(item, Peers):
                if sets is None:
                    sets = []
                sets.append(item)
                continue
            put_prefix(item, prefix)
            if acl_set_push(&peers.s, room, prefix[0], prefix + 1, prefix[17]):
                raise MemoryError
        return settled(peers, sets)

    @classmethod
    def from_arrays(cls, *, v4=None, v6=None):
        cdef Peers peers = Peers.__new__(Peers)
        cdef const uint32_t[::1] four
        cdef const uint8_t[:, ::1] six
        cdef size_t room[2]
        cdef Py_ssize_t i
        room[0] = room[1] = 0
        if v4 is not None:
            if v4.dtype != numpy.uint32 or v4.ndim != 1:
                raise ValueError("v4: one-dimensional array of uint32 expected")
            four = numpy.ascontiguousarray(v4)
            peers.s.r4 = <acl4_range *>malloc((four.shape[0] + 1) * sizeof(acl4_range))
            if peers.s.r4 == NULL:
                raise MemoryError
            peers.s.n4 = four.shape[0]
            for i in range(four.shape[0]):
                peers.s.r4[i].first = peers.s.r4[i].last = four[i]
        if v6 is not None:
            if v6.dtype != numpy.uint8 or v6.ndim != 2 or v6.shape[1] != 16:
                raise ValueError("v6: array of uint8 of shape (n, 16) expected")
            six = numpy.ascontiguousarray(v6)
            for i in range(six.shape[0]):
                if acl_set_push(&peers.s, room, 1, &six[i, 0], 128):
                    raise MemoryError
        return settled(peers, None)

    @classmethod
    def union_of(cls, sets):
        return union_all(list(sets))

    def union(self, *others):
        return union_all([self, *others])

    def intersection(self, Peers other not None):
        return combine_sets(ACL_INTERSECT, self, other)

    def difference(self, Peers other not None):
        return combine_sets(ACL_SUBTRACT, self, other)

    def with_(self, items):
        return combine_sets(ACL_UNITE, self, Peers.of(items))

    def without(self, items):
        return combine_sets(ACL_SUBTRACT, self, Peers.of(items))

    def family(self, int version):
        if version not in (4, 6):
            raise ValueError(f"IP version 4 or 6 expected, got {version}")
        return combine_sets(ACL_INTERSECT, self, _all_of_4 if version == 4 else _all_of_6)

    def covers(self, Peers other not None):
        return self is other or acl_set_covers(&self.s, &other.s) != 0

    def isdisjoint(self, Peers other not None):
        return acl_set_disjoint(&self.s, &other.s) != 0

    def networks(self):
        cdef Py_ssize_t n = len(self), i
        cdef bytearray room = bytearray(n * ACL_PREFIX)
        cdef uint8_t *at = room
        acl_set_write(&self.s, at)
        return [network_of(at + i * ACL_PREFIX) for i in range(n)]

    @property
    def allows_everything(self):
        return self is _any_peers or acl_set_equal(&self.s, &_any_peers.s) != 0

    @property
    def size(self):
        return sum(network.size for network in self.networks())

    @property
    def nbytes(self):
        return 8 * self.s.n4 + 32 * self.s.n6

    def __contains__(self, item):
        cdef uint8_t prefix[ACL_PREFIX]
        put_prefix(item, prefix)
        return acl_set_has(&self.s, prefix[0], prefix + 1, prefix[17]) != 0

    def __iter__(self):
        return iter(self.networks())

    def __len__(self):
        if self.counted < 0:
            self.counted = acl_set_prefixes(&self.s)
        return self.counted

    def __bool__(self):
        return self.s.n4 != 0 or self.s.n6 != 0

    def __hash__(self):
        if self.hashed == 0:
            self.hashed = positive(acl_set_hash(&self.s))
        return self.hashed

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Peers):
            return NotImplemented
        return same_peers(self, <Peers>other)

    def __reduce__(self):
        return Peers.of, (self.networks(),)

    def __repr__(self):
        if self.allows_everything:
            return "Peers.ANY"
        cdef list shown = [str(network) for network in self.networks()[:4]]
        if len(self) > 4:
            shown.append(f"... {len(self)} in all")
        return f"Peers({', '.join(shown)})"


cdef int64_t positive(uint64_t value):
    """A hash that Python takes as it is, never 0."""
    return <int64_t>(value >> 2) + 1


cdef bint same_peers(Peers a, Peers b):
    if a.hashed and b.hashed and a.hashed != b.hashed:
        return False
    return acl_set_equal(&a.s, &b.s) != 0


cdef Peers settled(Peers peers, list sets):
    """``peers`` made canonical, and ``sets`` (if any) added."""
    if acl_set_settle(&peers.s):
        raise MemoryError
    if sets is not None:
        sets.append(peers)
        return union_all(sets)
    return peers


cdef Peers combine_sets(acl_operation operation, Peers a, Peers b):
    """The very object ``a`` (or ``b`` of a union) when that is the result: its hash is known already."""
    if a is b:
        return _no_peers if operation == ACL_SUBTRACT else a
    cdef Peers result = Peers.__new__(Peers)
    if acl_set_combine(operation, &a.s, &b.s, &result.s):
        raise MemoryError
    if acl_set_equal(&result.s, &a.s):
        return a
    if operation != ACL_SUBTRACT and acl_set_equal(&result.s, &b.s):
        return b
    return result


cdef Peers union_all(list items):
    cdef Peers peers
    cdef list level, above
    cdef size_t ranges = 0
    cdef Py_ssize_t i
    cdef dict different = {}
    for item in items:
        if not isinstance(item, Peers):
            raise TypeError(f"Peers expected, got {type(item).__name__}")
        peers = <Peers>item
        if peers.s.n4 or peers.s.n6:
            different[id(peers)] = peers
            ranges += peers.s.n4 + peers.s.n6
    if not different:
        return _no_peers
    level = list(different.values())
    if len(level) > 2 and ranges < FEW * <size_t>len(level):
        return gather(level)
    while len(level) > 1:
        above = [combine_sets(ACL_UNITE, level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[len(level) - 1])
        level = above
    return level[0]


cdef Peers gather(list sets):
    cdef Peers result = Peers.__new__(Peers)
    cdef const acl_set **at = <const acl_set **>malloc(len(sets) * sizeof(acl_set *))
    cdef Py_ssize_t i
    cdef int failed
    if at == NULL:
        raise MemoryError
    for i in range(len(sets)):
        at[i] = &(<Peers>sets[i]).s
    failed = acl_set_gather(at, len(sets), &result.s)
    free(at)
    if failed:
        raise MemoryError
    return result


cdef Peers _no_peers = Peers.__new__(Peers)
cdef Peers _all_of_4 = Peers.of("0.0.0.0/0")
cdef Peers _all_of_6 = Peers.of("::/0")
cdef Peers _any_peers = combine_sets(ACL_UNITE, _all_of_4, _all_of_6)
set_class_attribute(Peers, b"NONE", _no_peers)
set_class_attribute(Peers, b"ANY", _any_peers)


# ---- ports ----

cdef class Ports:
    cdef acl4_range *at
    cdef size_t n
    cdef int64_t hashed

    def __dealloc__(self):
        free(self.at)

    @classmethod
    def of(cls, items):
        cdef Ports ports = Ports.__new__(Ports)
        cdef list given = [(item, 0, 0xFFFF) if isinstance(item, int) else tuple(item) for item in items]
        cdef acl4_range *spare
        cdef uint32_t protocol, first, last
        ports.at = <acl4_range *>malloc((len(given) + 1) * sizeof(acl4_range))
        spare = <acl4_range *>malloc((len(given) + 1) * sizeof(acl4_range))
        try:
            if ports.at == NULL or spare == NULL:
                raise MemoryError
            for item in given:
                protocol, first, last = checked_ports(item)
                ports.at[ports.n].first = protocol << 16 | first
                ports.at[ports.n].last = protocol << 16 | last
                ports.n += 1
            ports.n = acl4_settle(ports.at, ports.n, spare)
        finally:
            free(spare)
        return ports

    def union(self, *others):
        cdef Ports result = self
        for other in others:
            if not isinstance(other, Ports):
                raise TypeError(f"Ports expected, got {type(other).__name__}")
            result = combine_ports(ACL_UNITE, result, <Ports>other)
        return result

    def intersection(self, Ports other not None):
        return combine_ports(ACL_INTERSECT, self, other)

    def covers(self, Ports other not None):
        return self is other or acl4_covers(self.at, self.n, other.at, other.n) != 0

    def isdisjoint(self, Ports other not None):
        return acl4_disjoint(self.at, self.n, other.at, other.n) != 0

    def contains(self, protocol, port=0):
        cdef uint32_t key = port_key(protocol, port)
        return acl4_has(self.at, self.n, key, key) != 0

    def ranges(self):
        return port_ranges(self.at, self.n)

    @property
    def blurred(self):
        cdef list found = []
        if self.n == 1 and self.at.first == 0:
            return found
        for protocol, first, last in self.ranges():
            # ICMP's two protocols are read in one family each
            read = acl_reads_ports(protocol, 0) or acl_reads_ports(protocol, 1)
            if not read and (first > 1 or last < 0xFFFF):
                found.append((protocol, first, last))
        return found

    def __len__(self):
        return len(self.ranges())

    def __bool__(self):
        return self.n != 0

    def __hash__(self):
        if self.hashed == 0:
            self.hashed = positive(acl_hash(self.at, self.n * sizeof(acl4_range), 1))
        return self.hashed

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Ports):
            return NotImplemented
        return same_ports(self, <Ports>other)

    def __reduce__(self):
        return restored_ports, (self.ranges(),)

    def __repr__(self):
        if self.n == 1 and self.at.first == 0:
            return "Ports.ANY"
        return f"Ports({', '.join(f'{p}/{a}-{b}' for p, a, b in self.ranges())})"


def restored_ports(list ranges):
    """Ports from their ``ranges``, those of ANY included."""
    return _any_ports if ranges == [(0, 0, 0xFFFF)] else Ports.of(ranges)


cdef tuple checked_ports(tuple item):
    if len(item) != 3:
        raise ValueError(f"(protocol, first, last) or a protocol expected, got {item}")
    protocol, first, last = [PyNumber_Index(number) for number in item]
    if not 1 <= protocol <= 255:
        raise ValueError(f"protocol {protocol} is not in 1..255; Ports.ANY is all of them")
    if not 0 <= first <= last <= 0xFFFF:
        raise ValueError(f"ports {first} to {last} of protocol {protocol} are no range within 0..65535")
    return protocol, first, last


cdef uint32_t port_key(protocol, port) except? 0xFFFFFFFF:
    protocol, port = PyNumber_Index(protocol), PyNumber_Index(port)
    if not 0 <= protocol <= 255 or not 0 <= port <= 0xFFFF:
        raise ValueError(f"no protocol and port: {protocol}, {port}")
    return <uint32_t>protocol << 16 | <uint32_t>port


cdef list port_ranges(const acl4_range *at, size_t n):
    cdef list found = []
    cdef size_t i
    cdef uint32_t first, last, protocol
    if n == 1 and at.first == 0:
        return [(0, 0, 0xFFFF)]
    for i in range(n):
        first, last = at[i].first, at[i].last
        for protocol in range(first >> 16, (last >> 16) + 1):
            found.append((
                protocol,
                first & 0xFFFF if protocol == first >> 16 else 0,
                last & 0xFFFF if protocol == last >> 16 else 0xFFFF,
            ))
    return found


cdef bint same_ports(Ports a, Ports b):
    return a.n == b.n and (a.n == 0 or memcmp(a.at, b.at, a.n * sizeof(acl4_range)) == 0)


cdef Ports combine_ports(acl_operation operation, Ports a, Ports b):
    if a is b:
        return a
    cdef Ports result = Ports.__new__(Ports)
    if acl4_combine(operation, a.at, a.n, b.at, b.n, &result.at, &result.n):
        raise MemoryError
    return a if same_ports(result, a) else b if same_ports(result, b) else result


cdef Ports every_port():
    cdef Ports ports = Ports.__new__(Ports)
    ports.at = <acl4_range *>malloc(sizeof(acl4_range))
    if ports.at == NULL:
        raise MemoryError
    ports.at.first, ports.at.last, ports.n = 0, ACL_PORTS_LAST, 1
    return ports


cdef Ports _no_ports = Ports.__new__(Ports)
cdef Ports _any_ports = every_port()
set_class_attribute(Ports, b"NONE", _no_ports)
set_class_attribute(Ports, b"ANY", _any_ports)
