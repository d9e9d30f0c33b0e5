"""The policy capability's seat in the event loop: events to changes of ``PolicyState``, faults to the log.

Comes in: cluster resyncs, changes of pods, policies, namespaces and the own Node object; and whatever made pods come
and go or services change, which handlers before this one have taken in already: ``attachments`` and ``frontends`` are
views of what they hold. Goes out: access lists and their places. Every attached pod and every interface of the node has
a place, so that it can require one before it goes up: after a restart of VPP nothing is forwarded before it is judged.
Where all of them are up, the lists that judge a new pod elsewhere (tables.py) change in the same transaction as it, in
no order with its interface: until that is committed a new pod that is isolated reaches no service.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from contiv.controller.cluster import ClusterState, EtcdChange, KubeChange
from contiv.controller.event import ControllerError, Event
from contiv.controller.handler import Commit, EventHandler
from contiv.model import kube
from contiv.model.node import Attachment
from contiv.model.service import Frontend, FrontendKey
from contiv.policy.render import Rendered
from contiv.policy.rules import EGRESS, INGRESS, Fault
from contiv.policy.state import PolicyState
from contiv.policy.tables import NodeView
from contiv.scheduler import Value

log = structlog.get_logger(__name__)

JUDGED_BY: Final = frozenset(kind.plural for kind in (kube.NAMESPACES, kube.PODS, kube.NETWORK_POLICIES))
"""The kinds that must be reflected completely before a pod is anything but isolated."""

FAULTS_LOGGED: Final = 100
"""Of those that appear at once; all of them are in ``report``."""

Attachments = Callable[[], Mapping[str, Attachment]]
"""This node's pods by owner."""
Changes = Mapping[str, Value | None]


class Services(Protocol):
    """What services translate here; ``contiv.service`` keeps it."""

    @property
    def frontends_version(self) -> int:
        """Grows whenever ``frontends`` changes."""
        ...

    def frontends(self) -> Mapping[FrontendKey, Frontend]:
        """The frontends that policies must know."""
        ...


class ServicesForPods(Event, frozen=True):
    """The pods of a committed transaction may use services: what judges them there stands by now."""

    owners: frozenset[str]


class PolicyHandler(EventHandler[ClusterState]):
    """Owns all access lists and their places on interfaces."""

    name = "policy"

    def __init__(
        self,
        view: Callable[[], NodeView],
        *,
        attachments: Attachments,
        push: Callable[[Event], None],
        services: Services | None = None,
    ) -> None:
        """``view`` says what the node is now, ``attachments`` which pods it has by owner; both are read at each event
        that may have changed them. ``push`` queues an event."""
        self.state = PolicyState(view())
        self._view = view
        self._attachments = attachments
        self._push = push
        self._services = services
        self._seen = -1
        """The version of the frontends that the state knows."""
        self._rendered = Rendered()
        self._faults: list[Fault] = []
        self._brought: dict[int, dict[str, Attachment]] = {}
        """What events of the batch under way attached, by the event's identity: ``revert`` takes it back."""
        self._done: dict[int, dict[str, Attachment]] = {}
        """The same of the batch that is committed: persisting may still fail."""
        self._undone: dict[str, Attachment] = {}
        """Taken back here while the network, which is asked after us, still holds it."""

    def handles(self, event: Event) -> bool:
        return True  # what is no object of ours may have changed attachments or services

    def resync(self, event: Event, state: ClusterState) -> Mapping[str, Value]:
        presumed = {local.attachment for local in self.state.locals() if local.presumed}
        self.state.clear()
        self.state = PolicyState(self._view())
        self._seen = -1
        self.state.complete = state.reflected >= JUDGED_BY
        if not self.state.complete:
            missing = ", ".join(sorted(JUDGED_BY - state.reflected))
            log.warning("all pods are isolated until KSR has reflected everything", missing=missing)
        self.state.away = state.away
        self.state.load(state.objects.values())
        self._brought, self._done, self._undone = {}, {}, {}
        self._follow_attachments(young=False, presumed=presumed)
        self._follow_services()
        self.state.settle()
        self._report_faults()
        return self._rendered.replace(self.state.lists)

    def update(self, event: Event) -> Changes:
        match event:
            case KubeChange(new=None, old=old) if old is not None:
                self.state.remove(old)
            case KubeChange(new=new) if new is not None:
                self.state.put(new)
            case ServicesForPods():
                self.state.grow(event.owners)
            case EtcdChange():
                self.state.away = event.away
            case _:
                self.state.set_node(self._view())
                self._brought[id(event)] = self._follow_attachments(young=True)
        self._follow_services()
        return self._changes()

    def revert(self, event: Event) -> Changes:
        brought = self._brought.pop(id(event), None) or self._done.pop(id(event), None) or {}
        for owner, attachment in brought.items():
            if self.state.attachments.get(owner) is attachment:
                self._undone[owner] = attachment
                self.state.detach(owner)
        return self._changes()

    async def after_commit(self, commit: Commit) -> None:
        self._done, self._brought = self._brought, {}
        young = self.state.young()
        if young:
            try:
                self._push(ServicesForPods(young))
            except ControllerError as error:  # the next commit tries again
                log.warning("event put off", event_name=ServicesForPods.__name__, reason=str(error))

    def _changes(self) -> Changes:
        changes = self._rendered.change(self.state.settle(), self.state.lists)
        self._report_faults()
        return changes

    def _follow_attachments(
        self, *, young: bool, presumed: Collection[Attachment] = frozenset()
    ) -> dict[str, Attachment]:
        """Take in which pods are attached now; returns the new ones."""
        present, known = self._attachments(), self.state.attachments
        self._undone = {owner: each for owner, each in self._undone.items() if present.get(owner) is each}
        wanted = {owner: each for owner, each in present.items() if owner not in self._undone}
        for owner in known.keys() - wanted.keys():
            self.state.detach(owner)
        fresh = {owner: each for owner, each in wanted.items() if known.get(owner) != each}
        for owner, attachment in fresh.items():
            self.state.attach(owner, attachment, young=young, presumed=attachment in presumed)
        return fresh

    def _follow_services(self) -> None:
        """Take in what services translate now."""
        if self._services is not None and self._services.frontends_version != self._seen:
            self.state.set_frontends(self._services.frontends())
            self._seen = self._services.frontends_version

    def _report_faults(self) -> None:
        """Log what is newly wrong with objects, and what no longer is."""
        faults = self.state.faults()
        if faults == self._faults:
            return
        before, now = set(self._faults), set(faults)
        self._faults = faults
        appeared = sorted(now - before)
        for fault in appeared[:FAULTS_LOGGED]:
            where = f"{fault.namespace}/{fault.name}"
            log.warning("bad object", kind=fault.plural, object=where, field=fault.field, problem=fault.problem)
        if len(appeared) > FAULTS_LOGGED:
            log.warning("more bad objects", count=len(appeared) - FAULTS_LOGGED, see="netctl policies")
        for fault in sorted(before - now):
            log.info("object mended", kind=fault.plural, object=f"{fault.namespace}/{fault.name}", field=fault.field)

    @property
    def faults(self) -> Sequence[Fault]:
        """What is wrong with objects, in order."""
        return self._faults

    def report(self, *, lines: bool) -> dict[str, Any]:
        """What operators see: each pod's lists and the policies behind them, and what is wrong with objects.

        ``lines``: the lists' lines as text too.
        """
        state = self.state
        lists = {table.name: table for each in state.lists.values() for table in (*each.input, *each.output)}
        bound = {
            interface: {"input": [t.name for t in each.input], "output": [t.name for t in each.output]}
            for interface, each in state.lists.items()
        }
        pods = [
            {
                "namespace": local.attachment.pod_namespace,
                "pod": local.attachment.pod_name,
                "interface": local.interface,
                "known": local.pod is not None,
                "presumed": local.presumed,
                "isolated": [side for side, on in ((INGRESS, local.ingress), (EGRESS, local.egress)) if on is not None],
                "policies": [f"{namespace}/{name}" for namespace, name in local.policies],
                **bound[local.interface],
            }
            for local in state.locals()
        ]
        own = {local.interface for local in state.locals()}
        return {
            "complete": state.complete,
            "policies": state.policy_count,
            "faults": self._faults,
            "pods": pods,
            "interfaces": {name: each for name, each in bound.items() if name not in own and any(each.values())},
            "lists": {name: [str(rule) for rule in t] if lines else len(t) for name, t in sorted(lists.items())},
        }
