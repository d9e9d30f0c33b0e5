"""CNI requests as events of the loop, and their outcome as CNI results. No network knowledge of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from contiv.cni import model as cni
from contiv.controller.event import ControllerError, Event
from contiv.errors import CniError, ContivError, SchedulerError
from contiv.model.ip import Network
from contiv.model.node import Attachment
from contiv.network.events import AddPod, DeletePod
from contiv.network.state import NetworkState, PodRequest, owner_of

log = structlog.get_logger(__name__)

Call = Callable[[Event], Awaitable[Any]]
CODE_DATA_PLANE: Final = 100
"""Ours: VPP or the kernel refused; what was done has been undone."""
DEFAULT_ROUTE: Final = Network(4, 0, 0)


class Handler:
    """Serves CNI by events that wait for their answer (``contiv.cni.model.CniHandler``).

    ``call`` is the controller's; ``unready`` says why the data plane cannot be programmed, None when it can.
    """

    def __init__(self, call: Call, state: NetworkState, unready: Callable[[], str | None]) -> None:
        self._call = call
        self._state = state
        self._unready = unready

    async def add(self, request: cni.AddRequest, /) -> cni.AddResult:
        """Attach a pod."""
        self._refuse_unready(cni.TRY_AGAIN_LATER)
        pod = PodRequest(
            container_id=request.container_id,
            if_name=request.ifname,
            netns=request.netns,
            pod_namespace=request.pod.namespace,
            pod_name=request.pod.name,
            pod_uid=request.pod.uid,
        )
        attachment = await self._ask(AddPod(request=pod))
        return self._result(attachment, dns=request.dns)

    async def delete(self, request: cni.DelRequest, /) -> None:
        """Detach a pod; the unknown is no error."""
        self._refuse_unready(cni.TRY_AGAIN_LATER)
        await self._ask(DeletePod(container_id=request.container_id, if_name=request.ifname))

    async def check(self, request: cni.CheckRequest, /) -> None:
        """Compare what ADD answered with what the agent holds; what VPP and Linux hold is the resyncs' affair."""
        attachment = self._state.attachments.get(owner_of(request.container_id, request.ifname))
        if attachment is None:
            raise CniError(cni.UNKNOWN_CONTAINER, "container is not attached", details="add it before checking it")
        expected = self._result(attachment)
        answered = {address.address.address for address in request.previous.ips}
        missing = [str(a.address) for a in expected.ips if a.address.address not in answered]
        if missing or attachment.netns != request.netns:
            raise CniError(
                CODE_DATA_PLANE,
                "the attachment is not as ADD left it",
                details=f"address {attachment.address} in {attachment.netns}; delete and add it again",
            )

    async def status(self, request: cni.StatusRequest, /) -> None:
        """Whether an ADD could succeed now; without a data plane those that succeeded are cut off as well."""
        self._refuse_unready(cni.LIMITED_CONNECTIVITY)
        if len(self._state.pool) >= self._state.pool.capacity:
            raise CniError(cni.NOT_AVAILABLE, "no free pod address", details=str(self._state.pool.subnet))

    async def gc(self, request: cni.GcRequest, /) -> None:
        """Detach what the runtime does not know any more."""
        self._refuse_unready(cni.TRY_AGAIN_LATER)
        failures = []
        for attachment in tuple(self._state.attachments.values()):
            name = cni.Attachment(attachment.container_id, attachment.if_name)
            if name in request.valid:
                continue
            try:
                await self._ask(DeletePod(container_id=name.container_id, if_name=name.ifname))
            except CniError as error:
                failures.append(f"{name.container_id}/{name.ifname}: {error}")
        if failures:
            raise CniError(CODE_DATA_PLANE, "not everything could be removed", details="; ".join(failures))

    def _refuse_unready(self, code: int) -> None:
        problem = self._unready()
        if problem is not None:
            raise CniError(code, "the agent is not ready", details=problem)

    async def _ask(self, event: Event) -> Any:
        try:
            return await self._call(event)
        except CniError:
            raise
        except ControllerError as error:
            if isinstance(error.__cause__, CniError):
                raise error.__cause__ from error
            raise CniError(cni.TRY_AGAIN_LATER, "the agent could not take the request", details=str(error)) from error
        except SchedulerError as error:
            raise CniError(CODE_DATA_PLANE, "the data plane refused", details=str(error)) from error
        except ContivError as error:
            raise CniError(cni.TRY_AGAIN_LATER, "not now", details=str(error)) from error

    def _result(self, attachment: Attachment, *, dns: cni.Dns = cni.Dns()) -> cni.AddResult:  # noqa: B008  # frozen
        gateway = self._state.node.pod_gateway
        return cni.AddResult(
            interfaces=(
                cni.CniInterface(
                    name=attachment.if_name,
                    mac=attachment.pod_mac,
                    sandbox=attachment.netns,
                    mtu=self._state.options.mtu,
                ),
            ),
            ips=(cni.CniAddress(address=attachment.ip.host_network, gateway=gateway, interface=0),),
            routes=(cni.CniRoute(dst=DEFAULT_ROUTE, gw=gateway),),
            dns=dns,
        )
