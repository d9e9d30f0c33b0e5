# Blocks of lines and tables of rules. Included by acl.pyx.

RULE_DTYPE = numpy.dtype({
    "names": ["is_permit", "src_prefix", "dst_prefix", "proto", "srcport_or_icmptype_first",
              "srcport_or_icmptype_last", "dstport_or_icmpcode_first", "dstport_or_icmpcode_last", "tcp_flags_mask",
              "tcp_flags_value"],
    "formats": [">u1", *[numpy.dtype({
        "names": ["address", "len"],
        "formats": [numpy.dtype({
            "names": ["af", "un"],
            "formats": [">u1", numpy.dtype({
                "names": ["ip4", "ip6"],
                "formats": [(numpy.uint8, (4,)), (numpy.uint8, (16,))],
                "offsets": [0, 0],
                "itemsize": 16,
            })],
            "offsets": [0, 1],
            "itemsize": 17,
        }), ">u1"],
        "offsets": [0, 17],
        "itemsize": 18,
    })] * 2, ">u1", ">u2", ">u2", ">u2", ">u2", ">u1", ">u1"],
    "offsets": [0, 1, 19, 37, 38, 40, 42, 44, 46, 47],
    "itemsize": ACL_RULE,
})
PACKET_DTYPE = numpy.dtype([
    ("version", "u1"), ("protocol", "u1"), ("flags", "u1"), ("tcp_flags", "u1"),
    ("source_port", "=u2"), ("destination_port", "=u2"),
    ("source", "u1", (16,)), ("destination", "u1", (16,)),
])
assert PACKET_DTYPE.itemsize == sizeof(acl_packet)

# in the order of enum acl_fault
cdef tuple FAULTS = (
    "", "its action is none of 0 to 2", "its address family is neither 0 nor 1",
    "its source and destination are of different families", "its prefix is longer than its address",
    "its prefix has host bits set", "its ports end before they begin",
)


cdef class Block:
    cdef readonly int action
    cdef readonly Allowed allowed
    cdef readonly bint destination
    cdef readonly Peers own

    @property
    def side(self):
        return "destination" if self.destination else "source"

    def __repr__(self):
        return f"Block({'deny' if not self.action else 'permit'} {self.side} {self.allowed!r}, own {self.own!r})"


cdef Block make_block(int action, allowed, side, own):
    cdef Block block = Block.__new__(Block)
    if side not in ("source", "destination"):
        raise ValueError(f"side is source or destination, not {side!r}")
    if isinstance(allowed, Peers):
        allowed = box(allowed, _any_ports) if allowed else _nothing_allowed
    elif not isinstance(allowed, Allowed):
        raise TypeError(f"Allowed or Peers expected, got {type(allowed).__name__}")
    block.action, block.allowed, block.destination = action, allowed, side == "destination"
    block.own = _any_peers if own is None else Peers.of(own)
    return block


def permit(allowed=_any_allowed, *, side="source", own=None, reflect=True):
    return make_block(2 if reflect else 1, allowed, side, own)


def deny(allowed=_any_allowed, *, side="source", own=None):
    return make_block(0, allowed, side, own)


cdef list joined(blocks):
    """Neighbours that differ in what is allowed alone become one; those without lines go."""
    cdef list found = []
    cdef Block block, before = None
    cdef list group = []
    for item in blocks:
        if not isinstance(item, Block):
            raise TypeError(f"Block expected, got {type(item).__name__}")
        block = <Block>item
        if not block.allowed or not block.own:
            continue
        if before is not None and (block.action, block.destination) == (before.action, before.destination) \
                and block.own == before.own:
            group.append(block.allowed)
            continue
        if before is not None:
            found.append((before, union_maps(group)))
        before, group = block, [block.allowed]
    if before is not None:
        found.append((before, union_maps(group)))
    return found


cdef int render(Block block, Allowed allowed, acl_rules *out) except -1:
    cdef acl_block c
    cdef Py_ssize_t n = len(allowed.ports), i
    cdef acl_ports *ports = <acl_ports *>malloc((n + 1) * sizeof(acl_ports))
    cdef int failed
    if ports == NULL:
        raise MemoryError
    for i in range(n):
        ports[i].at = (<Ports>allowed.ports[i]).at
        ports[i].n = (<Ports>allowed.ports[i]).n
    c.action, c.destination = block.action, block.destination
    c.own = NULL if block.own is _any_peers or block.own.allows_everything else &block.own.s
    c.map = &allowed.m
    c.ports, c.n_ports = ports, <uint32_t>n
    failed = acl_render(&c, out)
    free(ports)
    if failed:
        raise MemoryError
    return 0


cdef class Table:
    cdef readonly bytes wire
    cdef str named

    def __cinit__(self):
        self.wire = b""

    @classmethod
    def build(cls, blocks):
        cdef acl_rules rules
        cdef size_t first = 0
        memset(&rules, 0, sizeof(rules))
        try:
            for block, allowed in joined(blocks):
                render(block, allowed, &rules)
                first = first or rules.n
            if acl_drop_repeated(&rules, first):
                raise MemoryError
            return table_of(PyBytes_FromStringAndSize(<const char *>rules.wire, rules.n * ACL_RULE))
        finally:
            free(rules.wire)

    @classmethod
    def from_wire(cls, data):
        cdef size_t bad = 0
        # the check clears bytes that do not count: a copy of our own
        cdef bytes wire = bytes(memoryview(data)) if type(data) is not bytes \
            else PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        cdef acl_fault fault
        if PyBytes_GET_SIZE(wire) % ACL_RULE:
            raise ValueError(f"{PyBytes_GET_SIZE(wire)} bytes are no whole number of rules of {ACL_RULE}")
        fault = acl_check(<uint8_t *>PyBytes_AS_STRING(wire), PyBytes_GET_SIZE(wire) // ACL_RULE, &bad)
        if fault:
            raise ValueError(f"rule {bad}: {FAULTS[fault]}")
        return table_of(wire)

    @classmethod
    def from_numpy(cls, rules):
        if rules.dtype != RULE_DTYPE:
            raise TypeError(f"array of RULE_DTYPE expected, got {rules.dtype}")
        return Table.from_wire(rules.tobytes())

    @classmethod
    def from_rules(cls, rules):
        cdef bytearray wire = bytearray()
        cdef uint8_t source[ACL_PREFIX]
        cdef uint8_t destination[ACL_PREFIX]
        for rule in rules:
            memset(source, 0, ACL_PREFIX)
            memset(destination, 0, ACL_PREFIX)
            put_prefix(rule.source, source)
            put_prefix(rule.destination, destination)
            try:
                wire += bytes((rule.action,)) + source[:ACL_PREFIX] + destination[:ACL_PREFIX] + bytes((rule.protocol,))
                for port in (*rule.source_ports, *rule.destination_ports):
                    wire += (<object>port).to_bytes(2, "big")
                wire += bytes((rule.tcp_flags_mask, rule.tcp_flags_value))
            except OverflowError as error:
                raise ValueError(f"{rule!r}: {error}") from None
        return Table.from_wire(bytes(wire))

    @property
    def name(self):
        cdef uint8_t digest[16]
        if self.named is None:
            acl_fingerprint(<const uint8_t *>PyBytes_AS_STRING(self.wire), count(self), digest)
            self.named = digest[:16].hex()
        return self.named

    def to_numpy(self):
        return numpy.frombuffer(self.wire, RULE_DTYPE)

    def rules(self):
        cdef size_t i
        cdef const uint8_t *wire = <const uint8_t *>PyBytes_AS_STRING(self.wire)
        return tuple([rule_of(wire + i * ACL_RULE) for i in range(count(self))])

    def evaluate(self, source, destination, protocol, source_port=0, destination_port=0, *, tcp_flags=2,
                 fragment=False, truncated=False):
        cdef acl_packet packet
        put_packet(&packet, source, destination, protocol, source_port, destination_port, tcp_flags,
                   flags_of(fragment, truncated))
        return verdict(self, &packet, None)

    def evaluate_many(self, packets):
        cdef const uint8_t[::1] raw = packet_bytes(packets)
        lines = numpy.full(raw.shape[0] // sizeof(acl_packet), -1, numpy.int32)
        actions = numpy.zeros(len(lines), numpy.uint8)
        match_all(self, raw, lines)
        take_actions(self, lines, actions)
        return actions, lines

    def __add__(self, Table other not None):
        return table_of(self.wire + other.wire)

    def __getitem__(self, line):
        cdef Py_ssize_t n = count(self), i = line
        if i < 0:
            i += n
        if not 0 <= i < n:
            raise IndexError(f"line {line} of a table of {n}")
        return rule_of(<const uint8_t *>PyBytes_AS_STRING(self.wire) + i * ACL_RULE)

    def __iter__(self):
        return iter(self.rules())

    def __len__(self):
        return count(self)

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Table):
            return NotImplemented
        return self.wire == (<Table>other).wire

    def __reduce__(self):
        return Table.from_wire, (self.wire,)

    def __repr__(self):
        return f"Table({self.name}, {count(self)} rules)"


cdef Table table_of(bytes wire):
    cdef Table table = Table.__new__(Table)
    table.wire = wire
    return table


cdef inline Py_ssize_t count(Table table):
    return PyBytes_GET_SIZE(table.wire) // ACL_RULE


cdef object rule_of(const uint8_t *at):
    cdef int i
    cdef list ports = [at[38 + 2 * i] << 8 | at[39 + 2 * i] for i in range(4)]
    return Rule(at[0], network_of(at + 1), network_of(at + 19), at[37], (ports[0], ports[1]), (ports[2], ports[3]),
                at[46], at[47])


# ---- packets ----

cdef int flags_of(fragment, truncated):
    return (ACL_FRAGMENT if fragment else 0) | (ACL_TRUNCATED if truncated else 0)


cdef int octet(value, str what) except -1:
    value = PyNumber_Index(value)
    if not 0 <= value <= 255:
        raise ValueError(f"{what} {value} is not in 0..255")
    return value


cdef int put_packet(acl_packet *packet, source, destination, protocol, source_port, destination_port, tcp_flags,
                    int flags) except -1:
    cdef bint is_ip6 = put_address(source, packet.source)
    if put_address(destination, packet.destination) != is_ip6:
        raise ValueError(f"{source} and {destination} are of different families")
    source_port, destination_port = PyNumber_Index(source_port), PyNumber_Index(destination_port)
    if not 0 <= source_port <= 0xFFFF or not 0 <= destination_port <= 0xFFFF:
        raise ValueError(f"ports {source_port} and {destination_port} are not both in 0..65535")
    packet.version = 6 if is_ip6 else 4
    packet.protocol, packet.tcp_flags = octet(protocol, "protocol"), octet(tcp_flags, "tcp_flags")
    packet.flags = <uint8_t>flags
    packet.source_port, packet.destination_port = source_port, destination_port
    return 0


cdef object verdict(Table table, const acl_packet *packet, place):
    """What the table says; without a match, a drop."""
    cdef const uint8_t *wire = <const uint8_t *>PyBytes_AS_STRING(table.wire)
    cdef int64_t line = acl_match(wire, count(table), packet)
    return Verdict(wire[line * ACL_RULE], line, place) if line >= 0 else Verdict(0, None, None)


cdef object packet_bytes(packets):
    if packets.dtype != PACKET_DTYPE or packets.ndim != 1:
        raise TypeError("one-dimensional array of PACKET_DTYPE expected")
    version = packets["version"]
    if not ((version == 4) | (version == 6)).all():
        raise ValueError("version of a packet is neither 4 nor 6")
    return numpy.ascontiguousarray(packets).view(numpy.uint8)


cdef int match_all(Table table, const uint8_t[::1] raw, int32_t[::1] lines) except -1:
    cdef const uint8_t *wire = <const uint8_t *>PyBytes_AS_STRING(table.wire)
    cdef size_t rules = count(table), n = lines.shape[0]
    cdef int failed = 0
    if n:
        with nogil:
            failed = acl_match_many(wire, rules, <const acl_packet *>&raw[0], n, &lines[0])
    if failed:
        raise MemoryError
    return 0


cdef int take_actions(Table table, const int32_t[::1] lines, uint8_t[::1] actions) except -1:
    cdef const uint8_t *wire = <const uint8_t *>PyBytes_AS_STRING(table.wire)
    cdef Py_ssize_t i
    for i in range(lines.shape[0]):
        if lines[i] >= 0:
            actions[i] = wire[<size_t>lines[i] * ACL_RULE]
    return 0


def evaluate_lists(tables, source, destination, protocol, source_port=0, destination_port=0, *, tcp_flags=2,
                   fragment=False, truncated=False):
    cdef acl_packet packet
    cdef Py_ssize_t place = 0
    put_packet(&packet, source, destination, protocol, source_port, destination_port, tcp_flags,
               flags_of(fragment, truncated))
    for table in tables:
        found = verdict(<Table?>table, &packet, place)
        if found.line is not None:
            return found
        place += 1
    return Verdict(1 if place == 0 else 0, None, None)


def evaluate_lists_many(tables, packets):
    cdef const uint8_t[::1] raw = packet_bytes(packets)
    cdef Py_ssize_t n = raw.shape[0] // <Py_ssize_t>sizeof(acl_packet), place = 0
    actions = numpy.full(n, 0 if len(tables) else 1, numpy.uint8)
    places = numpy.full(n, -1, numpy.int32)
    lines = numpy.full(n, -1, numpy.int32)
    left = numpy.arange(n)
    for table in tables:
        some, found = (<Table?>table).evaluate_many(packets[left])
        hit = found >= 0
        where = left[hit]
        actions[where], lines[where], places[where] = some[hit], found[hit], place
        left = left[~hit]
        place += 1
    return actions, places, lines


def packets(sources, destinations, *, protocol=6, source_port=0, destination_port=0, tcp_flags=2, flags=0):
    cdef list from_, to
    from_ = [sources] if isinstance(sources, (str, Address)) else list(sources)
    to = [destinations] if isinstance(destinations, (str, Address)) else list(destinations)
    columns = {"protocol": protocol, "source_port": source_port, "destination_port": destination_port,
               "tcp_flags": tcp_flags, "flags": flags}
    sizes = {len(from_), len(to), *(numpy.size(column) for column in columns.values())} - {1}
    if len(sizes) > 1:
        raise ValueError(f"columns of different lengths: {sorted(sizes)}")
    n = sizes.pop() if sizes else 1
    out = numpy.zeros(n, PACKET_DTYPE)
    for name, column in columns.items():
        limit = numpy.iinfo(PACKET_DTYPE[name]).max
        if numpy.size(column) and (numpy.min(column) < 0 or numpy.max(column) > limit):
            raise ValueError(f"{name} is not in 0..{limit}")
        out[name] = column
    versions = [put_addresses(out, "source", from_), put_addresses(out, "destination", to)]
    if (versions[0] != versions[1]).any():
        raise ValueError("source and destination of a packet are of different families")
    out["version"] = versions[0]
    return out


cdef object put_addresses(out, str name, list addresses):
    """Writes a column of addresses; returns their versions."""
    raw = numpy.zeros((len(addresses), 16), numpy.uint8)
    versions = numpy.zeros(len(addresses), numpy.uint8)
    cdef uint8_t[:, ::1] at = raw
    cdef uint8_t[::1] version = versions
    cdef Py_ssize_t i
    for i in range(len(addresses)):
        version[i] = 6 if put_address(addresses[i], &at[i, 0]) else 4
    out[name] = raw
    return versions


set_class_attribute(Table, b"EMPTY", table_of(b""))
