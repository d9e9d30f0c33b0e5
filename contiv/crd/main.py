"""crd's composition root: custom resources reflected while it leads; runs until cancelled."""

from __future__ import annotations

from typing import Any

from contiv.config import Config
from contiv.crd.nodeconfigs import NodeConfigs
from contiv.crd.reporting import NodeConfigReflector
from contiv.kube.listing import PAGE_LIMIT
from contiv.model import keys
from contiv.reflection.leading import Candidate, lead
from contiv.reflection.reflector import Reflector
from contiv.reflection.seat import Seat


async def run(config: Config, *, page_limit: int = PAGE_LIMIT, **candidate: Any) -> None:
    """Reflect while leading, for ever. ``config``: the cluster's, whose sections the resources stand over.
    ``candidate``: how to reach API server and etcd, fields of ``Candidate``."""

    def reflectors(seat: Seat) -> list[Reflector]:
        return [NodeConfigReflector(NodeConfigs(config), seat, page_limit=page_limit)]

    await lead(Candidate(process="crd", key=keys.CRD_LEADER, **candidate), reflectors)
