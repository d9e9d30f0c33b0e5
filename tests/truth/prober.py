"""Single packets between network namespaces, and who saw them: one process for all ends of a cluster. Run as a file.

In: lines of JSON. ``{"ends": {NAME: {"netns": PATH, "address": ADDRESS}, …}}`` opens sockets in the namespaces (again:
those of new ends, and closes those of ends that are gone). ``{"probes": [[SOURCE, DESTINATION, PROTOCOL, PORT], …],
"wanted": [INDEX, …]}`` sends each probe, those that nobody wants first, waits until all wanted ones were answered,
sends those again that were not, then the others once more, and looks on for ``GRACE_S``. Out: one line for each line,
``{}`` or ``{"arrived": [INDEX, …], "answered": [INDEX, …]}``.

A probe is a TCP SYN to a listener, a UDP datagram to an echo server, an SCTP INIT, an ICMP echo request. Raw sockets
watch at both ends, so a packet that reached its destination is seen even where the answer is lost: *arrived* and
*answered* are two facts. SCTP needs no kernel support: the raw socket at the destination answers with INIT ACK. Every
round uses ports and identifiers of its own, so that no session of an earlier round carries a packet.
"""

import ctypes
import json
import os
import select
import socket
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
TCP, UDP, SCTP, ICMP = 6, 17, 132, 1
PORTS = (80, 81)
FIRST_PORT, LAST_PORT = 1024, 60999
BATCH, PAUSE_S = 10, 0.002
"""How many probes go out at a time, and the pause behind them: the rings of pods' interfaces hold 16 frames."""
SYN, RST, ACK = 0x02, 0x04, 0x10
INIT, INIT_ACK = 1, 2  # RFC 9260, section 3.2
ECHO_REQUEST, ECHO_REPLY = 8, 0
AGAIN_S = (0.15, 0.3, 0.6, 1.0, 1.5)
"""When what was wanted and not answered is sent again: packets may be lost while a machine is busy."""
GRACE_S = 0.12
BUFFER = 1 << 21
libc = ctypes.CDLL(None, use_errno=True)


class End:
    """One namespace with its sockets. ``arrived`` and ``answered`` collect the keys of this round's probes."""

    def __init__(self, netns, address):
        self.netns, self.address = netns, address
        self.packed = socket.inet_aton(address)
        self.arrived, self.answered = set(), set()
        self.namespace = os.open(netns, os.O_RDONLY)
        self.enter()
        self.raw = {protocol: self._raw(protocol) for protocol in (TCP, SCTP, ICMP)}
        self.listeners = [self._listener(port) for port in PORTS]
        self.echo = {self._datagrams(port): port for port in PORTS}
        self.client = self._datagrams(0)
        self.readers = {self.raw[TCP]: self.tcp, self.raw[SCTP]: self.sctp, self.raw[ICMP]: self.icmp}
        self.readers |= dict.fromkeys(self.echo, self.serve) | {self.client: self.replies}

    def enter(self):
        """Let this process make its sockets in the end's namespace."""
        if libc.setns(self.namespace, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns " + self.netns)

    def renew(self, port):
        """Another UDP client, on another port: a new connection to everybody. Returns the old one, closed."""
        self.enter()
        old, self.client = self.client, self._datagrams(port)
        self.readers[self.client] = self.readers.pop(old)
        return old

    def _raw(self, protocol):
        one = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        one.bind((self.address, 0))
        return one

    def _listener(self, port):
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((self.address, port))
        one.listen(512)
        return one

    def _datagrams(self, port):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        one.bind((self.address, port))
        return one

    def close(self):
        for one in (*self.raw.values(), *self.listeners, *self.echo, self.client):
            one.close()
        os.close(self.namespace)

    # What is seen is known by (protocol, other end, number): the number is the probe's port, identifier or payload.

    def tcp(self, one):
        for packet, peer in received(one):
            source, destination, _, _, _, flags = struct.unpack_from("!HHIIBB", packet, header(packet))
            if flags & (SYN | ACK) == SYN:
                self.arrived.add((TCP, peer, source, destination))
            elif flags & SYN or flags & RST:  # SYN-ACK, or refused by the destination's kernel: an answer
                self.answered.add((TCP, peer, destination, source))

    def sctp(self, one):
        for packet, peer in received(one):
            start = header(packet)
            source, destination, _, _ = struct.unpack_from("!HHII", packet, start)
            chunk = packet[start + 12]
            if chunk == INIT:
                self.arrived.add((SCTP, peer, source, destination))
                (tag,) = struct.unpack_from("!I", packet, start + 16)
                send(one, sctp_packet(destination, source, tag, INIT_ACK), peer)
            elif destination not in PORTS:  # INIT ACK, or the ABORT of a kernel that speaks SCTP
                self.answered.add((SCTP, peer, destination, source))

    def icmp(self, one):
        for packet, peer in received(one):
            kind, _, _, identifier, number = struct.unpack_from("!BBHHH", packet, header(packet))
            if kind == ECHO_REQUEST:
                self.arrived.add((ICMP, peer, identifier, number))
            elif kind == ECHO_REPLY:
                self.answered.add((ICMP, peer, identifier, number))

    def serve(self, one):
        for packet, peer in received(one, whole=True):
            self.arrived.add((UDP, peer[0], struct.unpack("!I", packet)[0], self.echo[one]))
            send(one, packet, peer[0], peer[1])

    def replies(self, one):
        for packet, peer in received(one, whole=True):
            self.answered.add((UDP, peer[0], struct.unpack("!I", packet)[0], peer[1]))


def received(one, *, whole=False):
    """All that is there: bytes with the sender's address (``whole``: and port)."""
    while True:
        try:
            packet, peer = one.recvfrom(2048)
        except BlockingIOError:
            return
        yield packet, (peer if whole else peer[0])


def send(one, packet, address, port=0):
    """Send, or do without: a refusal of the kernel is a probe that does not arrive."""
    try:
        one.sendto(packet, (address, port))
    except OSError:
        return


def header(packet):
    """Where the payload of an IPv4 packet begins."""
    return (packet[0] & 0xF) * 4


class Prober:
    """The ends, and the rounds between them."""

    def __init__(self):
        self.ends = {}
        self.poll = select.epoll()
        self.by_descriptor = {}
        self.numbers = dict.fromkeys((TCP, UDP, SCTP, ICMP), FIRST_PORT)
        self.round = 0

    def set_ends(self, wanted):
        """Open what is new, close what is gone."""
        for name in [name for name, end in self.ends.items() if wanted.get(name) != described(end)]:
            self.ends.pop(name).close()
        for name, place in wanted.items():
            if name not in self.ends:
                self.ends[name] = End(place["netns"], place["address"])
        self.poll.close()
        self.poll = select.epoll()
        self.by_descriptor = {one.fileno(): (end, one) for end in self.ends.values() for one in end.readers}
        for descriptor in self.by_descriptor:
            self.poll.register(descriptor, select.EPOLLIN)

    def play(self, probes, wanted):
        """One round; the indexes of what arrived and of what was answered."""
        self.begin()
        keys = [self.key(probe[2], probe[3]) for probe in probes]
        missing = set(wanted)
        unwanted = [index for index in range(len(probes)) if index not in missing]
        self.emit(unwanted, probes, keys)
        self.emit(sorted(missing), probes, keys)
        started = time.monotonic()
        for again_s in AGAIN_S:
            while missing and (left := started + again_s - time.monotonic()) > 0:
                self.look(left)
                missing = {index for index in missing if not self.answered(probes[index], keys[index])}
            if not missing:
                break
            self.emit(sorted(missing), probes, keys)
        self.emit(unwanted, probes, keys)
        deadline = time.monotonic() + GRACE_S
        while (left := deadline - time.monotonic()) > 0:
            self.look(left)
        return {
            "arrived": [i for i, probe in enumerate(probes) if self.arrived(probe, keys[i])],
            "answered": [i for i, probe in enumerate(probes) if self.answered(probe, keys[i])],
        }

    def begin(self):
        """Forget the last round."""
        self.round += 1
        self.look(0)
        for end in self.ends.values():
            end.arrived.clear()
            end.answered.clear()
            old = end.renew(FIRST_PORT + self.round % (LAST_PORT - FIRST_PORT))
            self.poll.unregister(old)
            del self.by_descriptor[old.fileno()]
            old.close()
            self.by_descriptor[end.client.fileno()] = (end, end.client)
            self.poll.register(end.client, select.EPOLLIN)

    def key(self, name, port):
        """What a probe is known by at both ends: protocol, number, port."""
        protocol = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP, "ICMP": ICMP}[name]
        number = self.numbers[protocol]
        self.numbers[protocol] = number + 1 if number < LAST_PORT else FIRST_PORT
        return (protocol, self.round & 0xFFFF, number) if protocol == ICMP else (protocol, number, port)

    def emit(self, indexes, probes, keys):
        """Send these probes, and meanwhile look at what comes."""
        for place, index in enumerate(indexes, start=1):
            self.send(probes[index], keys[index])
            if place % BATCH == 0:
                time.sleep(PAUSE_S)
                self.look(0)

    def send(self, probe, key):
        """Send one probe."""
        source, destination = self.ends[probe[0]], self.ends[probe[1]]
        protocol, number, port = key
        if protocol == TCP:
            send(source.raw[TCP], tcp_syn(source.packed, destination.packed, number, port), destination.address)
        elif protocol == UDP:
            send(source.client, struct.pack("!I", number), destination.address, port)
        elif protocol == SCTP:
            send(source.raw[SCTP], sctp_packet(number, port, 0, INIT), destination.address)
        else:
            send(source.raw[ICMP], echo_request(number, port), destination.address)

    def arrived(self, probe, key):
        """Whether the destination saw it."""
        source, destination = self.ends[probe[0]], self.ends[probe[1]]
        return (key[0], source.address, *key[1:]) in destination.arrived

    def answered(self, probe, key):
        """Whether the source saw the answer."""
        source, destination = self.ends[probe[0]], self.ends[probe[1]]
        return (key[0], destination.address, *key[1:]) in source.answered

    def look(self, seconds):
        """Read whatever comes, waiting at most so long for the first."""
        for descriptor, _ in self.poll.poll(seconds):
            end, one = self.by_descriptor[descriptor]
            end.readers[one](one)


def described(end):
    """An end as the commands name it."""
    return {"netns": end.netns, "address": end.address}


def tcp_syn(source, destination, port, to):
    """A SYN (RFC 9293) whose sequence number is its port, so that a probe sent again is a retransmission."""
    segment = struct.pack("!HHIIBBHHH", port, to, port, 0, 5 << 4, SYN, 65535, 0, 0)
    checksum = internet_checksum(source + destination + struct.pack("!BBH", 0, TCP, len(segment)) + segment)
    return segment[:16] + struct.pack("!H", checksum) + segment[18:]


def sctp_packet(source, destination, tag, chunk):
    """INIT or INIT ACK (RFC 9260, section 3.3.2), the latter with a state cookie, as it must."""
    cookie = struct.pack("!HHI", 7, 8, 0) if chunk == INIT_ACK else b""
    body = struct.pack("!BBHIIHHI", chunk, 0, 20 + len(cookie), source + 1, 65536, 1, 1, source) + cookie
    packet = struct.pack("!HHII", source, destination, tag, 0) + body
    return packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]


def echo_request(identifier, number):
    """RFC 792."""
    body = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identifier, number)
    return body[:2] + struct.pack("!H", internet_checksum(body)) + body[4:]


def internet_checksum(data):
    """RFC 1071, for an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def crc32c(data):
    """RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def main():
    """Answer line by line until the input ends."""
    prober = Prober()
    for line in sys.stdin:
        command = json.loads(line)
        if "ends" in command:
            prober.set_ends(command["ends"])
            answer = {}
        else:
            answer = prober.play([tuple(probe) for probe in command["probes"]], command["wanted"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
