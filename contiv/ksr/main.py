"""KSR's composition root: one reflector a kind of Kubernetes objects, while it leads; runs until cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from contiv.ksr.objects import Objects
from contiv.kube.listing import PAGE_LIMIT
from contiv.model import keys, kube
from contiv.reflection.leading import Candidate, lead
from contiv.reflection.reflector import Reflector
from contiv.reflection.seat import Seat


async def run(*, page_limit: int = PAGE_LIMIT, kinds: Sequence[kube.AnyKind] = kube.KINDS, **candidate: Any) -> None:
    """Reflect while leading, for ever. ``candidate``: how to reach API server and etcd, fields of ``Candidate``."""

    def reflectors(seat: Seat) -> list[Reflector]:
        return [Reflector(Objects(kind), seat, page_limit=page_limit) for kind in kinds]

    await lead(Candidate(process="ksr", key=keys.KSR_LEADER, **candidate), reflectors)
