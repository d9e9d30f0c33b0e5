"""Random access-list values for hypothesis, each beside what the oracle makes of it.

Addresses crowd around a few places (the ends of each family among them), so that neighbours, overlaps and bounds occur
all the time; ports likewise.
"""

from __future__ import annotations

from hypothesis import strategies as st

from contiv._fastpath.acl import Allowed, Block, Peers, Ports, deny, permit
from contiv.model.ip import Address, Network
from tests.fastpath import acl_oracle as oracle

WINDOW = 64
PLACES = {
    4: (0, 0x0A000040, (1 << 32) - WINDOW),
    6: (0, 0x20010DB8 << 96, (1 << 64) - WINDOW // 2, (1 << 128) - WINDOW),
}
PROTOCOLS = (1, 6, 17, 58, 132, 200)
PORTS = (0, 1, 2, 79, 80, 81, 443, 65534, 65535)
versions = st.sampled_from([4, 6])


@st.composite
def addresses(draw: st.DrawFn, version: int | None = None) -> Address:
    """An address in one of the windows."""
    chosen = draw(versions) if version is None else version
    return Address(chosen, draw(st.sampled_from(PLACES[chosen])) + draw(st.integers(0, WINDOW - 1)))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Mostly small ones; now and then all of a family or half of it."""
    address = draw(addresses())
    bits = oracle.BITS[address.version]
    length = draw(st.sampled_from([bits, bits, bits, bits - 1, bits - 2, bits - 3, bits - 5, 0, 1]))
    return Network(address.version, address.value, length).network


def ranges_of(found: list[Network]) -> dict[int, oracle.Ranges]:
    """The oracle's form of networks."""
    return {
        version: oracle.merged(
            (n.value & n.mask, (n.value & n.mask) + n.size - 1) for n in found if n.version == version
        )
        for version in (4, 6)
    }


def points(version: int) -> list[int]:
    """Every address of the windows."""
    return [place + i for place in PLACES[version] for i in range(WINDOW)]


@st.composite
def peers(draw: st.DrawFn, max_size: int = 12) -> tuple[Peers, dict[int, oracle.Ranges]]:
    """A set of addresses."""
    found = draw(st.lists(networks(), max_size=max_size))
    return Peers.of(found), ranges_of(found)


@st.composite
def port_ranges(draw: st.DrawFn) -> tuple[int, int, int]:
    """``(protocol, first, last)``."""
    first, last = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
    if draw(st.booleans()):
        last = first
    return draw(st.sampled_from(PROTOCOLS)), first, last


@st.composite
def ports(draw: st.DrawFn) -> tuple[Ports, oracle.Ranges]:
    """A set of ports."""
    if draw(st.integers(0, 7)) == 0:
        return Ports.ANY, oracle.ALL_KEYS
    found = draw(st.lists(port_ranges(), max_size=5))
    return Ports.of(found), oracle.merged((p << 16 | first, p << 16 | last) for p, first, last in found)


Boxes = list[tuple[dict[int, oracle.Ranges], oracle.Ranges]]


@st.composite
def allowed(draw: st.DrawFn, max_size: int = 5) -> tuple[Allowed, Boxes]:
    """What one direction allows."""
    boxes = draw(st.lists(st.tuples(peers(6), ports()), max_size=max_size))
    return Allowed.of([(p[0], q[0]) for p, q in boxes]), [(p[1], q[1]) for p, q in boxes]


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Block, oracle.OracleBlock]:
    """Lines of one action."""
    what, boxes = draw(allowed())
    destination = draw(st.booleans())
    side = "destination" if destination else "source"
    own, own_ranges = draw(st.one_of(st.just((None, None)), peers(3)))
    if own_ranges is not None and own is not None and own.allows_everything:
        own_ranges = None
    match draw(st.integers(0, 2)):
        case 0:
            return deny(what, side=side, own=own), oracle.OracleBlock(0, boxes, destination, own_ranges)
        case action:
            block = permit(what, side=side, own=own, reflect=action == 2)
            return block, oracle.OracleBlock(action, boxes, destination, own_ranges)


@st.composite
def packets(draw: st.DrawFn) -> oracle.Packet:
    """A packet between two addresses of the windows."""
    source = draw(addresses())
    return oracle.Packet(
        source.version,
        source.value,
        draw(addresses(source.version)).value,
        draw(st.sampled_from(PROTOCOLS)),
        draw(st.sampled_from(PORTS)),
        draw(st.sampled_from(PORTS)),
        draw(st.sampled_from([0, 2, 0x10, 0x12])),
        draw(st.integers(0, 5)) == 0,
        draw(st.integers(0, 5)) == 0,
    )
