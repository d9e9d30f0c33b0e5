"""``NodeConfig`` resources as a collection to reflect: checked by the file's own rules, with a verdict on each.

In: the cluster's configuration, what etcd holds, objects of the API. Out: sections for etcd, as an agent reads them,
and for each object the status that it should have. A resource is checked as it will count, over the file's section of
its node, and against the addresses of the other nodes, those included that follow from their IDs. One that is refused
changes nothing; it is judged again when another one changes, which may have been in its way. Of one that is accepted
its node's agent says whether it is in force. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import structlog

from contiv import nodeconfig
from contiv.config import Config, subnets
from contiv.errors import ConfigError
from contiv.model import keys
from contiv.model.ip import Address, Network
from contiv.model.kubewire import ObjectError, explain, identify
from contiv.model.node import ConfigVerdict, NodeClaim
from contiv.network.ipam import ClusterSubnets
from contiv.nodeconfig import NodeConfig, NodeConfigSpec
from contiv.reflection.collection import Refuse

PLURAL: Final = "nodeconfigs"
PATH: Final = "/apis/nodeconfig.contiv.vpp/v1/nodeconfigs"

log = structlog.get_logger(__name__)


class Status(msgspec.Struct, frozen=True):
    """A resource's status, in the original's words and one more. ``state``: Accepted until the node's agent has said
    what became of it, Success once it is in force, Failure with the reason."""

    state: str
    message: str


ACCEPTED: Final = Status("Accepted", "accepted; the node's agent has not applied it yet")
APPLIED: Final = Status("Success", "applied by the node's agent")


class _Meta(msgspec.Struct, frozen=True):
    name: str


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: NodeConfigSpec | None = None


class _Told(msgspec.Struct, frozen=True):
    status: Any = None


class _Seen(msgspec.Struct, frozen=True):
    """An object as it was last seen, and why it is refused; None when it is in force."""

    raw: msgspec.Raw
    told: Any
    refusal: Status | None


_objects: Final = msgspec.json.Decoder(_Object)
_told: Final = msgspec.json.Decoder(_Told)
_sections: Final = msgspec.json.Decoder(NodeConfig)
_encoder: Final = msgspec.json.Encoder(order="deterministic")


class NodeConfigs:
    """All ``NodeConfig`` objects (``contiv.reflection.collection.Collection``); an object's name is its node's."""

    plural = PLURAL
    path = PATH
    prefix = keys.NODE_CONFIGS
    status_key = keys.NODE_CONFIGS_STATUS

    def __init__(self, config: Config) -> None:
        """``config`` is the cluster's: its networks, and the sections that the resources stand over."""
        self._config = config
        self._networks = subnets(config.ipam_config)
        self._in_force: dict[str, NodeConfig] = {}
        self._seen: dict[str, _Seen] = {}
        self._derived: dict[str, Address] = {}
        self._verdicts: dict[str, ConfigVerdict | None] = {}
        self._changed = False

    def key(self, namespace: str, name: str) -> str:
        """Key of one node's section in etcd; nodes have no namespace."""
        return keys.node_config(name)

    def nodes(self, claims: Iterable[NodeClaim]) -> None:
        """Learn which address follows from each node's ID."""
        cluster = ClusterSubnets.of(self._config)
        self._derived = {
            claim.name: cluster.node(claim.id).uplink.address
            for claim in claims
            if 1 <= claim.id <= cluster.node_id_max
        }

    def begin(self, stored: Mapping[str, bytes]) -> None:
        """Take what etcd has as what is in force."""
        self._seen = {}
        self._in_force = {}
        for key, value in stored.items():
            try:
                self._in_force[key.removeprefix(self.prefix)] = _sections.decode(value)
            except msgspec.DecodeError as error:  # its object, which is listed now, will replace it
                log.error("unreadable node configuration in etcd", key=key, error=str(error))

    def read(self, raw: msgspec.Raw, refuse: Refuse) -> tuple[str, bytes]:
        """Key and section of a resource that can be meant; ObjectError for any other."""
        _, name = identify(raw)
        told = _told.decode(raw).status
        try:
            section = self._admit(name, raw)
        except ObjectError as error:
            kept = "; what it said before stays in force" if name in self._in_force else ""
            self._seen[name] = _Seen(raw, told, Status("Failure", f"{error.field}: {error.problem}{kept}"))
            raise
        self._seen[name] = _Seen(raw, told, None)
        self._changed = self._changed or self._in_force.get(name) != section
        self._in_force[name] = section
        return keys.node_config(name), _encoder.encode(section)

    def deleted(self, key: str) -> None:
        """Forget a resource; others may have what was its."""
        name = key.removeprefix(self.prefix)
        self._seen.pop(name, None)
        self._changed = self._in_force.pop(name, None) is not None or self._changed

    def to_judge_again(self) -> list[msgspec.Raw]:
        """The resources that are refused, if anything in force has changed since this was last asked."""
        changed, self._changed = self._changed, False
        return [seen.raw for seen in self._seen.values() if seen.refusal is not None] if changed else []

    def forget_verdicts(self) -> None:
        """All agents are about to be heard anew."""
        self._verdicts.clear()

    def heard(self, node: str, verdict: ConfigVerdict | None) -> None:
        """Take a node's agent's word on its resource; None when it says nothing, or is gone."""
        self._verdicts[node] = verdict

    def untold(self) -> dict[str, Status]:
        """What the objects' status should say and does not yet, by name."""
        due = {name: seen.refusal or self._became(name) for name, seen in self._seen.items()}
        return {name: status for name, status in due.items() if self._seen[name].told != msgspec.to_builtins(status)}

    def _became(self, name: str) -> Status:
        """What the node's agent made of the resource that is in force here."""
        verdict = self._verdicts.get(name)
        if verdict is None or verdict.fingerprint != nodeconfig.fingerprint(self._in_force[name]):
            return ACCEPTED
        return Status("Failure", f"not applied: {verdict.problem}") if verdict.problem else APPLIED

    def _admit(self, name: str, raw: msgspec.Raw) -> NodeConfig:
        try:
            spec = _objects.decode(raw).spec or NodeConfigSpec()
        except msgspec.DecodeError as error:
            field, problem = explain(error)
            raise ObjectError(PLURAL, "", name, field=field, problem=problem) from error
        if not name or "/" in name:
            raise ObjectError(PLURAL, "", name, field="metadata.name", problem=f"{name!r} is no node's name")
        section = NodeConfig(node_name=name, **{field: getattr(spec, field) for field in spec.__struct_fields__})
        try:
            nodeconfig.check_section(
                "spec",
                nodeconfig.overlay(section, self._config.node(name)),
                networks=self._networks,
                holders=self._holders(name),
                defaults=self._config.node_defaults,
            )
        except ConfigError as error:
            problem = f"{error.value!r}: {error.problem}; {error.remedy}"
            raise ObjectError(PLURAL, "", name, field=error.key, problem=problem) from error
        return section

    def _holders(self, name: str) -> dict[Address, str]:
        """Who has which address, but for node ``name``."""
        named = {section.node_name for section in self._config.node_config}
        holders: dict[Address, str] = {}
        for other in sorted((named | self._in_force.keys() | self._derived.keys()) - {name}):
            nics = self._config.under(self._in_force.get(other)).nics(other)
            if nics.main.ip:
                holders[Network.parse(nics.main.ip, strict=False).address] = other
            elif other in self._derived and not nics.main.use_dhcp and not nics.steal:
                holders[self._derived[other]] = other
        return holders
