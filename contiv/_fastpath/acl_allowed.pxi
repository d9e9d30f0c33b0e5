# What is allowed: a map from addresses to ports. Included by acl.pyx.

cdef class Allowed:
    cdef acl_map m
    cdef tuple ports  # of label i: ports[i - 1]
    cdef int64_t hashed

    def __cinit__(self):
        self.ports = ()

    def __dealloc__(self):
        acl_map_free(&self.m)

    @classmethod
    def of(cls, boxes):
        cdef dict by_ports = {}
        cdef list same
        for peers, ports in boxes:
            if not isinstance(peers, Peers) or not isinstance(ports, Ports):
                raise TypeError(f"(Peers, Ports) expected, got ({type(peers).__name__}, {type(ports).__name__})")
            if peers and ports:
                same = by_ports.get(ports)
                if same is None:
                    by_ports[ports] = [peers]
                else:
                    same.append(peers)
        return union_maps([box(union_all(all_peers), ports) for ports, all_peers in by_ports.items()])

    @classmethod
    def union_of(cls, items):
        return union_maps(list(items))

    def union(self, *others):
        return union_maps([self, *others])

    def intersection(self, Allowed other not None):
        return overlay(self, other, True)

    def toward(self, address):
        return look_up(self, address)

    def toward_all(self, addresses):
        return [look_up(self, address) for address in addresses]

    def sources_of(self, protocol, port):
        cdef uint32_t key = port_key(protocol, port)
        return select(self, lambda ports: acl4_has((<Ports>ports).at, (<Ports>ports).n, key, key))

    def peers_with(self, Ports ports not None):
        cdef Ports wanted = ports
        return select(self, lambda ports: (<Ports>ports).covers(wanted)) if wanted else _any_peers

    def contains(self, address, protocol, port=0):
        cdef uint32_t key = port_key(protocol, port)
        cdef Ports ports = look_up(self, address)
        return acl4_has(ports.at, ports.n, key, key) != 0

    def covers(self, Allowed other not None):
        if self is other:
            return True
        for mine, theirs in pairs_of(self, other):
            if not (<Ports>mine).covers(<Ports>theirs):
                return False
        return True

    def boxes(self):
        cdef list found = []
        for wanted in self.ports:
            found.append((select(self, lambda ports: ports is wanted), wanted))
        return found

    @property
    def peers(self):
        return select(self, lambda ports: True)

    @property
    def covers_all(self):
        return self is _any_allowed or same_allowed(self, _any_allowed)

    @property
    def nbytes(self):
        return 12 * self.m.n4 + 36 * self.m.n6

    def __len__(self):
        return len(self.ports)

    def __bool__(self):
        return len(self.ports) != 0

    def __hash__(self):
        if self.hashed == 0:
            self.hashed = positive(acl_map_hash(&self.m) ^ <uint64_t><int64_t>hash(self.ports))
        return self.hashed

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Allowed):
            return NotImplemented
        return same_allowed(self, <Allowed>other)

    def __reduce__(self):
        return Allowed.of, (self.boxes(),)

    def __repr__(self):
        if self.covers_all:
            return "Allowed.ANY"
        return f"Allowed({', '.join(f'{peers!r}: {ports!r}' for peers, ports in self.boxes())})"


cdef bint same_allowed(Allowed a, Allowed b):
    if a.hashed and b.hashed and a.hashed != b.hashed:
        return False
    return a.ports == b.ports and acl_map_equal(&a.m, &b.m) != 0


cdef Allowed box(Peers peers, Ports ports):
    """One set of addresses with one of ports, neither empty."""
    cdef Allowed result = Allowed.__new__(Allowed)
    if acl_map_of(&peers.s, &result.m):
        raise MemoryError
    result.ports = (ports,)
    return result


cdef Ports look_up(Allowed allowed, address):
    cdef uint8_t raw[16]
    cdef bint is_ip6 = put_address(address, raw)
    cdef uint32_t label = acl_map_at(&allowed.m, is_ip6, raw)
    return allowed.ports[label - 1] if label else _no_ports


cdef Peers select(Allowed allowed, wanted):
    """The addresses whose ports ``wanted`` accepts."""
    cdef Peers result = Peers.__new__(Peers)
    cdef bytearray kept = bytearray(len(allowed.ports) + 1)
    cdef uint8_t *at = kept
    cdef Py_ssize_t i = 0
    for ports in allowed.ports:
        i += 1
        at[i] = 1 if wanted(ports) else 0
    if acl_map_select(&allowed.m, at, &result.s):
        raise MemoryError
    return result


cdef list pairs_of(Allowed a, Allowed b):
    """The port sets that meet anywhere; NONE where one of the two says nothing."""
    cdef acl_pairs pairs
    cdef acl_map map
    cdef uint32_t i, first, second
    cdef list found = []
    memset(&pairs, 0, sizeof(pairs))
    memset(&map, 0, sizeof(map))
    try:
        if acl_map_overlay(&a.m, &b.m, 0, &pairs, &map):
            raise MemoryError
        for i in range(pairs.n):
            first, second = pairs.at[i][0], pairs.at[i][1]
            found.append((a.ports[first - 1] if first else _no_ports, b.ports[second - 1] if second else _no_ports))
        return found
    finally:
        acl_pairs_free(&pairs)
        acl_map_free(&map)


cdef Allowed overlay(Allowed a, Allowed b, bint both):
    """Union of two maps, or their intersection (``both``)."""
    if a is b:
        return a
    cdef Allowed result = Allowed.__new__(Allowed)
    cdef acl_pairs pairs
    memset(&pairs, 0, sizeof(pairs))
    try:
        if acl_map_overlay(&a.m, &b.m, both, &pairs, &result.m):
            raise MemoryError
        name_labels(result, a.ports, b.ports, &pairs, both)
    finally:
        acl_pairs_free(&pairs)
    return a if same_allowed(result, a) else b if same_allowed(result, b) else result


cdef int name_labels(Allowed result, tuple a, tuple b, const acl_pairs *pairs, bint both) except -1:
    """From pairs of labels to port sets: equal ones are one label, empty ones none, numbered as they appear."""
    cdef uint32_t *kind = <uint32_t *>calloc(2 * (<size_t>pairs.n + 1), sizeof(uint32_t))
    cdef uint32_t *number = kind + pairs.n + 1
    cdef uint32_t i, first, second, used = 0
    cdef dict groups = {}
    cdef list ordered
    cdef Ports ports
    if kind == NULL:
        raise MemoryError
    try:
        for i in range(pairs.n):
            first, second = pairs.at[i][0], pairs.at[i][1]
            if first and second:
                ports = combine_ports(ACL_INTERSECT if both else ACL_UNITE, a[first - 1], b[second - 1])
            else:
                ports = a[first - 1] if first else b[second - 1]
            if ports.n:
                kind[i + 1] = groups.setdefault(ports, len(groups) + 1)
        acl_map_relabel(&result.m, kind, number, &used)
        ordered = [None] * used
        for ports, group in groups.items():
            ordered[number[<uint32_t>group] - 1] = ports
        result.ports = tuple(ordered)
    finally:
        free(kind)
    return 0


cdef Allowed union_maps(list level):
    cdef list above
    cdef Py_ssize_t i
    for item in level:
        if not isinstance(item, Allowed):
            raise TypeError(f"Allowed expected, got {type(item).__name__}")
    while len(level) > 1:
        above = [overlay(level[i], level[i + 1], False) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[len(level) - 1])
        level = above
    return level[0] if level else _nothing_allowed


cdef Allowed _nothing_allowed = Allowed.__new__(Allowed)
cdef Allowed _any_allowed = box(_any_peers, _any_ports)
set_class_attribute(Allowed, b"NONE", _nothing_allowed)
set_class_attribute(Allowed, b"ANY", _any_allowed)
