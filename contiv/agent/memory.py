"""What an agent goes on with while etcd has less than it had: objects not yet reflected again, claims not yet renewed.

etcd that lost its data comes back empty. KSR fills it again, agents claim their node IDs again, and meanwhile nothing
that pods rely on may vanish. In: what etcd holds now and what was known before. Out: the view to work with. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from contiv.model import kube
from contiv.model.node import NodeClaim

Objects = Mapping[str, kube.KubeObject]
Claims = Mapping[int, NodeClaim]


class Memory:
    """Decides what to keep. ``incomplete`` are the kinds, by plural, of which something is kept that KSR has yet to
    confirm."""

    def __init__(self, node: str) -> None:
        self.incomplete: frozenset[str] = frozenset()
        self._node = node
        self._lost = False
        """Whether etcd forgot claims: it lost ours, which nobody else deletes while our Node object is there."""

    def objects(self, found: Objects, *, known: Objects, reflected: Set[str]) -> dict[str, kube.KubeObject]:
        """``found``, and what was ``known`` of the kinds that are not ``reflected`` completely."""
        kept = {key: value for key, value in known.items() if key not in found and _plural(key) not in reflected}
        self.incomplete = frozenset(map(_plural, kept))
        return kept | dict(found)

    def claims(self, found: Claims, *, known: Claims, objects: Objects) -> dict[int, NodeClaim]:
        """``found``, and what was ``known`` of nodes that exist and have not claimed again since etcd forgot them."""
        own = {claim.id for claim in known.values() if claim.name == self._node}
        self._lost = self._lost or bool(own - found.keys())
        if not self._lost:
            return dict(found)
        nodes = {each.name for each in objects.values() if isinstance(each, kube.Node)}
        renewed = {claim.name for claim in found.values()}
        kept = {
            number: claim
            for number, claim in known.items()
            if claim.name != self._node and claim.name in nodes and claim.name not in renewed
        }
        self._lost = bool(kept.keys() - found.keys()) or not own <= found.keys()
        return kept | dict(found)


def _plural(key: str) -> str:
    return kube.kind_of(key).plural
