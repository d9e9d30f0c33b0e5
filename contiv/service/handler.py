"""The service capability's seat in the event loop: events to changes of ``ServiceState``, health checks after commits.

Comes in: cluster resyncs, services, endpoint slices, own pods with host ports, the own Node object, and whatever
changes the node's addresses and its pods' interfaces, which the handler sees in ``view`` and ``interfaces``. Goes out:
desired keys, and the faults of what changed to the log. Runs behind the network capability, which brings those up to
date, and before policies, which read ``frontends``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import structlog

from contiv.controller.cluster import ClusterState, KubeChange
from contiv.controller.event import ControllerError, Event
from contiv.controller.handler import Commit, EventHandler
from contiv.model import kube
from contiv.model.service import Frontend, FrontendKey
from contiv.scheduler import Value
from contiv.service.endpoints import Fault
from contiv.service.frontends import NodeView
from contiv.service.state import HealthCheck, ServiceState

log = structlog.get_logger(__name__)

Changes = dict[str, Value | None]


class CompareInterfaces(Event, frozen=True):
    """Pods came or went otherwise than by an event that was seen through: look at who is attached."""


class HealthChecks(Protocol):
    """Who answers load balancers."""

    async def apply(self, checks: Mapping[int, HealthCheck]) -> None:
        """Serve these and no others."""
        ...


class ServiceHandler(EventHandler[ClusterState]):
    """Owns all keys of NAT, and the routes that refuse or drop what services do not serve."""

    name = "service"

    def __init__(
        self,
        state: ServiceState,
        *,
        view: Callable[[], NodeView],
        interfaces: Callable[[], Collection[str]],
        health: HealthChecks,
        push: Callable[[Event], None],
    ) -> None:
        """``view`` says what the node is now, ``interfaces`` which its pods have, or will have: what VPP does for an
        interface then is long done when a pod comes. Both are read at each event that may have changed them."""
        self.state = state
        self._view = view
        self._interfaces = interfaces
        self._health = health
        self._push = push
        self._cluster = ClusterState()
        self._faults: dict[str, frozenset[Fault]] = {}

    @property
    def frontends_version(self) -> int:
        """Grows whenever ``frontends`` changes."""
        return self.state.frontends_version

    def frontends(self) -> Mapping[FrontendKey, Frontend]:
        """The frontends that policies must know."""
        return self.state.frontends()

    def handles(self, event: Event) -> bool:
        match event:
            case KubeChange(old=old, new=new):
                match new or old:
                    case kube.Service() | kube.EndpointSlice():
                        return True
                    case kube.Node(name=name):
                        return name == self.state.node.name
                    case kube.Pod():
                        return self._has_host_ports(old) or self._has_host_ports(new)
                    case _:
                        return False
            case _:
                return True

    def resync(self, event: Event, state: ClusterState) -> Mapping[str, Value]:
        self._cluster = state
        return self.state.replace(
            state.of_kind(kube.SERVICES).values(),
            state.of_kind(kube.ENDPOINT_SLICES),
            self._view(),
            node_object=self._node_object(),
            interfaces=self._interfaces(),
            pods=[pod for pod in state.of_kind(kube.PODS).values() if self._has_host_ports(pod)],
        )

    def update(self, event: Event) -> Changes:
        match event:
            case KubeChange(old=old, new=new):
                return self._kube_change(event.key, new or old, gone=new is None)
            case _:
                return self._node_changed() | self.state.interfaces_changed(self._interfaces())

    def _kube_change(self, key: str, value: kube.KubeObject | None, *, gone: bool) -> Changes:
        match value:
            case kube.Service():
                name = f"{value.namespace}/{value.name}"
                return self.state.service_changed(name, None if gone else value)
            case kube.EndpointSlice():
                return self.state.slice_changed(key, None if gone else value)
            case kube.Pod():
                return self.state.pod_changed(value, gone=gone)
            case _:
                return self._node_changed()

    async def after_commit(self, commit: Commit) -> None:
        await self._health.apply(self.state.health)
        self._report()
        if commit.reverted and self._differ():  # the network capability undid its part after this one
            try:
                self._push(CompareInterfaces())
            except ControllerError as error:
                log.info("event put off", event_name="CompareInterfaces", reason=str(error))

    def _has_host_ports(self, pod: kube.KubeObject | None) -> bool:
        return (
            isinstance(pod, kube.Pod)
            and pod.node_name == self.state.node.name
            and any(port.host_port for port in pod.ports)
        )

    def _node_changed(self) -> Changes:
        return self.state.node_changed(self._view(), self._node_object())

    def _node_object(self) -> kube.Node | None:
        found = self._cluster.objects.get(kube.NODES.key(self.state.node.name))
        return found if isinstance(found, kube.Node) else None

    def _differ(self) -> bool:
        return frozenset(self._interfaces()) != self.state.interfaces

    def _report(self) -> None:
        """Say what came to be wrong and what no longer is, of the services that changed."""
        for name in sorted(self.state.touched):
            before, after = self._faults.pop(name, frozenset()), self.state.faults_of(name)
            for fault in sorted(after - before):
                log.warning("service fault", object=fault.object, field=fault.field, reason=fault.reason)
            for fault in sorted(before - after):
                log.info("service fault is gone", object=fault.object, field=fault.field)
            if after:
                self._faults[name] = after
        self.state.touched.clear()
