"""What outlives the agent: the pods' attachments and the claim on the node's ID, in etcd and in the local mirror.

In come the network capability's writes. They are safe once the mirror has them; etcd gets them at once where it
answers, and later, the newest value of each key, where it does not. At the next start both are merged: the mirror
knows what etcd has not heard of, etcd knows what a lost disk has forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from contiv.errors import StoreError
from contiv.model import keys
from contiv.model.node import NodeClaim
from contiv.network.ipam import ClusterSubnets
from contiv.network.node_id import claim_node_id, parse_claim, release_node_id
from contiv.store.client import Etcd
from contiv.store.mirror import LocalMirror

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 1.0
"""How long a pod waits for etcd; what it did not take by then is written later."""
RETRY_S: Final = 1.0
"""Between attempts to give etcd what it has not."""
UNSENT: Final = "unsent"
"""Prefix of the mirror's keys that name what etcd has not heard of: ``unsent/contiv/vswitch/…``."""

Changes = Mapping[str, bytes | None]


class Persistence:
    """What the network capability asks of etcd and the disk (``contiv.network.handler.Persistence``)."""

    def __init__(
        self,
        etcd: Etcd,
        mirror: LocalMirror,
        subnets: ClusterSubnets,
        *,
        node: str,
        uplink: str | None = None,
        on_moved: Callable[[], None],
    ) -> None:
        """``uplink`` is the address that the claim shows, "" one that a DHCP server has yet to lease, None the one
        that follows from the ID. ``on_moved`` is called when the node got another ID than it runs with."""
        self.moved: str = ""
        self.readdressed = asyncio.Event()
        """Set once the claim shows another address."""
        self._etcd = etcd
        self._mirror = mirror
        self._uplink = uplink
        self._subnets = subnets
        self._node = node
        self._on_moved = on_moved
        self._id = 0
        self._remembered: NodeClaim | None = None
        self._unsent: dict[str, bytes | None] = {}
        self._waiting = asyncio.Event()
        self._turn = asyncio.Lock()
        self._behind = False

    @property
    def unsent(self) -> int:
        """How many keys etcd has not heard of."""
        return len(self._unsent)

    # ------------------------------------------------------------------ attachments

    async def attachments(self, stored: Mapping[str, bytes] | None) -> dict[str, bytes]:
        """This node's attachments at its start; ``stored`` is what etcd has of the node, None when it does not answer.

        The mirror is right where both differ, since it is written when etcd does not answer; unless etcd says that
        the mirror fell behind. What etcd lacks goes there.
        """
        prefix = keys.attachments(self._node)
        if stored is not None and keys.mirror_behind(self._node) in stored:
            return await self._forget_mirror({key: value for key, value in stored.items() if key.startswith(prefix)})
        mirrored = await self._mirror.load(prefix)
        unsent = {key.removeprefix(UNSENT) for key in await self._mirror.load(UNSENT)}
        if stored is None:
            await self._put_off({key: mirrored.get(key) for key in unsent})
            return mirrored
        known = {key: value for key, value in stored.items() if key.startswith(prefix)}
        merged = {key: value for key, value in known.items() if key not in unsent} | mirrored
        differing: dict[str, bytes | None] = dict.fromkeys(known.keys() - merged.keys())
        differing |= {key: value for key, value in merged.items() if known.get(key) != value}
        await self._mirror.replace(prefix, merged)
        await self._mirror.replace(UNSENT, {})
        if differing:
            log.warning("etcd lacks pod attachments that the mirror has", keys=len(differing))
            await self._put_off(differing)
        return merged

    async def _forget_mirror(self, known: dict[str, bytes]) -> dict[str, bytes]:
        log.warning("mirror fell behind etcd, which counts", path=str(self._mirror.path), attachments=len(known))
        await self._mirror.replace(UNSENT, {})
        await self._mirror.replace(keys.attachments(self._node), known)
        await self._settle_behind()
        return known

    async def write(self, changes: Changes) -> None:
        """Put and delete keys, for good: in the mirror, and in etcd now or later; a pod waits for the slower one."""
        if self._etcd.connected and not self._unsent:
            delivered, _ = await asyncio.gather(self._deliver(changes), self._mirror.write(changes))
            if delivered:
                if self._mirror.problem is not None or self._behind:
                    await self._settle_behind()
                return
        await self._put_off(changes)

    async def _deliver(self, changes: Changes) -> bool:
        """Whether etcd took them within the time that a pod waits."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._turn:
                await self._etcd.write(changes)
        except (StoreError, TimeoutError) as error:
            log.warning("etcd gets pod attachments later", keys=len(changes), error=str(error) or "no answer")
            return False
        return True

    async def settle(self) -> None:
        """Give etcd what it has not heard of, for ever."""
        while True:
            await self._waiting.wait()
            try:
                await self._send()
            except StoreError as error:
                log.info("etcd still lacks pod attachments", keys=len(self._unsent), error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _put_off(self, changes: Changes) -> None:
        self._unsent.update(changes)
        self._waiting.set()
        marks: dict[str, bytes | None] = {f"{UNSENT}{key}": b"" for key in changes}
        await self._mirror.write({**changes, **marks})

    async def _send(self) -> None:
        async with self._turn:
            sending = dict(self._unsent)
            await self._etcd.write(sending)
            sent = [key for key, value in sending.items() if self._unsent.get(key) == value]
            for key in sent:
                self._unsent.pop(key, None)
            if not self._unsent:
                self._waiting.clear()
        await self._mirror.write(dict.fromkeys(f"{UNSENT}{key}" for key in sent))
        log.info("etcd has the pod attachments again", keys=len(sent))

    async def _settle_behind(self) -> None:
        """Tell etcd, for the next start, whether the mirror is behind what etcd has."""
        behind = self._mirror.problem is not None
        try:
            await self._etcd.write({keys.mirror_behind(self._node): b"" if behind else None})
            self._behind = behind
        except StoreError as error:  # the next write tries again
            self._behind = True
            log.warning("etcd does not know that the mirror is behind", error=str(error))

    # ------------------------------------------------------------------ the node's ID

    async def remember(self) -> None:
        """Read from the mirror which ID this node had when it last ran; it prefers that one."""
        for key, value in (await self._mirror.load(keys.NODE_IDS)).items():
            claim = parse_claim(key, value)
            if claim is not None and claim.name == self._node:
                self._remembered = claim

    def resume(self) -> NodeClaim | None:
        """Run with the remembered claim, since etcd cannot be asked; None when there is none."""
        if self._remembered is not None:
            self._id = self._remembered.id
        return self._remembered

    async def release(self, claim: NodeClaim) -> object:
        """Give up another node's claim."""
        return await release_node_id(self._etcd, claim)

    async def readdress(self, uplink: str) -> object:
        """Show another address in the node's claim; empty for none."""
        self._uplink = uplink
        claim = await self.reclaim()
        self.readdressed.set()
        return claim

    async def reclaim(self) -> NodeClaim:
        """This node's claim, made or found."""
        if self._uplink == "" and not self._id and self._remembered is not None:
            self._uplink = self._remembered.uplink  # until VPP says otherwise: others keep their tunnels meanwhile
        uplink = self._uplink
        claim = await claim_node_id(
            self._etcd,
            self._node,
            uplink_of=lambda number: str(self._subnets.node(number).uplink) if uplink is None else uplink,
            id_max=self._subnets.node_id_max,
            limit_key=self._subnets.node_id_limit,
            preferred=self._id or (self._remembered.id if self._remembered else 0),
        )
        if self._id not in (0, claim.id):
            self.moved = f"node {self._node} lost ID {self._id} to another node and has {claim.id} now; start it anew"
            self._on_moved()
        self._id = self._id or claim.id
        return claim
