"""The resource that configures this node, as crd brought it into etcd, and what the node remembers of it.

Three things are told apart: what etcd says now; what is *in force*, the last that the node's NICs could be chosen by,
kept in the local mirror; and what the vswitch was *started with*, noted there by ``contiv init``. The last one counts
where only a start of the vswitch can change something (``bound``).
"""

from __future__ import annotations

from typing import Final

import msgspec
import structlog

from contiv.config import Config
from contiv.model import keys
from contiv.nodeconfig import NodeConfig
from contiv.store.client import Etcd
from contiv.store.mirror import LocalMirror

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 2.0
"""How long a start waits for etcd; what changed meanwhile is followed once it answers."""
STARTED: Final = "started"
"""Prefix of the mirror's key of what the vswitch was started with: ``started/contiv/crd/nodeconfigs/…``."""

_decoder: Final = msgspec.json.Decoder(NodeConfig)


async def fetch(
    etcd: Etcd, node: str, *, otherwise: NodeConfig | None, timeout_s: float | None = None
) -> NodeConfig | None:
    """The node's resource in etcd, None when there is none; StoreError when etcd does not answer.

    ``otherwise`` stands for one that cannot be read, and for one that is not there although crd has not said that
    nothing is missing: an etcd that lost its data says nothing about the API server.
    """
    complete = await etcd.get(keys.NODE_CONFIGS_STATUS, timeout_s=timeout_s)  # first: what it promises is there now
    record = await etcd.get(keys.node_config(node), timeout_s=timeout_s)
    if record is not None:
        return _decoded(record.key, record.value, otherwise)
    # and it still promises it: etcd may have lost all between the two questions
    lost = complete is None or await etcd.get(keys.NODE_CONFIGS_STATUS, timeout_s=timeout_s) != complete
    return otherwise if lost else None


async def in_force(mirror: LocalMirror, node: str) -> NodeConfig | None:
    """The resource that the node last ran with; None for the file alone."""
    return await _load(mirror, keys.node_config(node))


async def put_in_force(mirror: LocalMirror, node: str, resource: NodeConfig | None) -> None:
    """Remember what the node runs with."""
    await _store(mirror, keys.node_config(node), resource)


async def started_with(mirror: LocalMirror, node: str) -> NodeConfig | None:
    """The resource that the vswitch was started with; None for the file alone."""
    return await _load(mirror, f"{STARTED}{keys.node_config(node)}")


async def note_start(mirror: LocalMirror, node: str, resource: NodeConfig | None) -> None:
    """Remember what the vswitch is started with."""
    await _store(mirror, f"{STARTED}{keys.node_config(node)}", resource)


def bound(config: Config, node: str) -> tuple[str, bool, frozenset[str], bool]:
    """What only a start of the vswitch changes: the NIC that is stolen, whether it is the first one, the NICs on PCI,
    which VPP takes when it starts, and whether it starts with its af_xdp plugin."""
    nics = config.nics(node)
    pci = frozenset(nic.interface_name for nic in (nics.main, *nics.others) if nic.is_pci)
    return nics.steal, config.steal_first_nic and not nics.main.interface_name, pci, nics.by_xdp


async def _load(mirror: LocalMirror, key: str) -> NodeConfig | None:
    value = (await mirror.load(key)).get(key)
    return None if value is None else _decoded(key, value, None)


async def _store(mirror: LocalMirror, key: str, resource: NodeConfig | None) -> None:
    await mirror.write({key: None if resource is None else msgspec.json.encode(resource)})


def _decoded(key: str, value: bytes, otherwise: NodeConfig | None) -> NodeConfig | None:
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError as error:
        log.error("unreadable node configuration", key=key, error=str(error))
        return otherwise
