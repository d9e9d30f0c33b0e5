"""VPP and the emulated one side by side: the same lists, changes and packets at random, never a different answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
from typing import Any

import pytest
from topology import Node, closing
from wires import ICMP, ICMP6, SCTP, TCP, TOKEN, UDP, World, icmp, ip4, ip6, rule, sctp, tcp, udp

from contiv.linux.netns import Workers
from contiv.vpp import lifecycle

pytestmark = [pytest.mark.root, pytest.mark.vpp]

STEPS = 800
SETTLE_S = 0.02
"""VPP clears sessions a moment after it has answered."""
PREFIXES4 = ("0.0.0.0/0", "10.1.1.2/32", "10.1.1.3/32", "10.1.1.2/31", "10.1.1.0/24")
PREFIXES6 = ("::/0", "2001:db8:1::2/128", "2001:db8:1::3/128", "2001:db8:1::2/127", "2001:db8:1::/64")
PROTOCOLS = (0, ICMP, TCP, TCP, UDP, UDP, ICMP6, SCTP, 200)
SPANS = ((0, 65535), (0, 65535), (0, 0), (5, 5), (4, 6), (8, 8), (6, 200))
FLAGS = ((0, 0), (0, 0), (0, 0), (2, 2), (18, 2), (16, 16))
FRAGMENTS = (0, 0, 0, 0, 0x2000, 185, 0x2000 | 185)
PORTS = (4, 5, 6, 7, 80)


class Twins:
    """Two worlds that are told the same."""

    def __init__(self, worlds: tuple[World, World], seed: int) -> None:
        self.worlds = worlds
        self.random = random.Random(seed)
        self.lists: list[tuple[int, int]] = []
        self.told: list[Any] = []
        self.passed = self.sent = 0

    async def step(self) -> None:
        """One change, or a packet."""
        chance = self.random.random()
        if chance < 0.04 or len(self.lists) < 2:
            await self._put()
        elif chance < 0.06:
            await self._put(replaced=self.random.randrange(len(self.lists)))
        elif chance < 0.10:
            await self._apply()
        elif chance < 0.11:
            line = self.random.choice(("clear acl-plugin sessions", *_MODES))
            self.told.append(line)
            for world in self.worlds:
                await world.cli(line)
            await asyncio.sleep(SETTLE_S)
        elif chance < 0.12:
            first, second = [await world.sessions() for world in self.worlds]
            assert first == second, self.told[-5:]
        else:
            await self._send()

    async def _put(self, *, replaced: int | None = None) -> None:
        rules = [self._rule() for _ in range(self.random.randrange(6))]
        self.told.append((replaced, rules))
        if replaced is None:
            made = [await world.acl(*rules) for world in self.worlds]
            self.lists.append((made[0], made[1]))
            return
        for world, index in zip(self.worlds, self.lists[replaced], strict=True):
            await world.acl(*rules, index=index)

    async def _apply(self) -> None:
        choose = self.random
        sides = [choose.sample(self.lists, choose.randrange(min(4, len(self.lists) + 1))) for _ in range(2)]
        name = choose.choice(("a", "b"))
        self.told.append((name, sides))
        for number, world in enumerate(self.worlds):
            inputs, outputs = ([pair[number] for pair in side] for side in sides)
            await world.apply(getattr(world, name), input=inputs, output=outputs)
        await asyncio.sleep(SETTLE_S)

    async def _send(self) -> None:
        back = self.random.random() < 0.5
        packet = self._packet(back=back)
        answers = []
        for world in self.worlds:
            ends = (world.b, world.a) if back else (world.a, world.b)
            answers.append(await world.crosses(*ends, packet))
        assert answers[0] is answers[1], (answers, packet.hex(), self.told[-5:])
        self.sent += 1
        self.passed += answers[0]

    def _rule(self) -> dict[str, Any]:
        choose = self.random.choice
        prefixes = PREFIXES6 if self.random.random() < 0.35 else PREFIXES4
        return rule(
            choose((0, 1, 2, 2)), choose(prefixes), choose(prefixes), proto=choose(PROTOCOLS), sport=choose(SPANS),
            dport=choose(SPANS), flags=choose(FLAGS),
        )  # fmt: skip

    def _packet(self, *, back: bool) -> bytes:
        choose = self.random.choice
        first, second = choose(PORTS), choose(PORTS)
        protocol, payload = choose(
            (
                (TCP, tcp(first, second, choose((0, 2, 4, 16, 17, 18)))),
                (UDP, udp(first, second)),
                (ICMP, icmp(choose((0, 3, 8, 13, 14, 17)), choose((0, 0, 5)))),
                (ICMP6, icmp(choose((1, 128, 129, 139, 140)), choose((0, 5)))),
                (SCTP, sctp(first, second)),
                (200, TOKEN),
            )
        )
        if self.random.random() < 0.05:
            payload = payload[: choose((1, 4, 7))]
        if self.random.random() < 0.65:
            addresses = ("10.1.1.3", "10.1.1.2") if back else ("10.1.1.2", "10.1.1.3")
            return ip4(*addresses, protocol, payload, fragment=choose(FRAGMENTS))
        six = ("2001:db8:1::3", "2001:db8:1::2") if back else ("2001:db8:1::2", "2001:db8:1::3")
        header, more = choose(
            (
                (protocol, b""),
                (protocol, b""),
                (60, bytes((protocol, 0, 1, 4, 0, 0, 0, 0))),
                (44, bytes((protocol, 0)) + struct.pack(">HI", choose((0, 1, 185 << 3, 185 << 3 | 1)), 77)),
            )
        )
        return ip6(*six, header, more + payload)


_MODES = ("set acl-plugin reclassify-sessions 0", "set acl-plugin reclassify-sessions 1")


@pytest.mark.parametrize("seed", [1, 2])
async def test_never_a_different_answer(workers: Workers, seed: int) -> None:
    if lifecycle.find_vpp() is None:
        pytest.skip("no VPP is installed (CONTIV_VPP_PREFIX, /opt/vpp, PATH)")
    nodes = Node("vpp", workers), Node("emulator", workers)
    with closing(*nodes):
        worlds = World(), World()
        async with contextlib.AsyncExitStack() as stack:
            for node, world in zip(nodes, worlds, strict=True):
                node.start()
                world.vpp = await stack.enter_async_context(node.connect())
                await world.build(node)
            twins = Twins(worlds, seed)
            for _ in range(STEPS):
                await twins.step()
    assert 0 < twins.passed < twins.sent
