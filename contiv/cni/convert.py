"""Between the wire (``contiv_cni_pb2``) and ``contiv.cni.model``, with the checks of the edge.

The plugin has checked names already; a root process can speak to the socket without it, so they are checked
again. Refusals are ``CniError`` with code 4 and the variable's name, as the plugin's own.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from typing import Final

import structlog

from contiv.cni import config, model
from contiv.cni import contiv_cni_pb2 as pb
from contiv.errors import CniError

log = structlog.get_logger(__name__)

NetnsCheck = Callable[[str], None]

_IDENTIFIER: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}\Z")
_IFNAME: Final = re.compile(r"(?!\.{1,2}\Z)[!-~]{1,15}\Z")
_IFNAME_REFUSED: Final = frozenset("/:%")
_NS_GET_NSTYPE: Final = 0xB703  # linux/nsfs.h
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h


def _wrong(variable: str, problem: str) -> CniError:
    return CniError(model.INVALID_ENVIRONMENT, f"{variable} {problem}", details=variable)


def require_netns(path: str) -> None:
    """``path`` leads to a network namespace that is not the agent's own; CniError 4 else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise _wrong("CNI_NETNS", f"{path} cannot be opened by the agent: {error}") from error
    try:
        kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        status = os.fstat(descriptor)
    except OSError as error:
        raise _wrong("CNI_NETNS", f"{path} is no network namespace") from error
    finally:
        os.close(descriptor)
    if kind != _CLONE_NEWNET:
        raise _wrong("CNI_NETNS", f"{path} is no network namespace")
    own = os.stat("/proc/self/ns/net")
    if (status.st_dev, status.st_ino) == (own.st_dev, own.st_ino):
        raise _wrong("CNI_NETNS", f"{path} is the node's own network namespace; host-network pods need no CNI")


def _check_network(request: pb.Request) -> None:
    if request.cni_version not in model.VERSIONS:
        raise CniError(
            model.INCOMPATIBLE_VERSION,
            f"cniVersion {request.cni_version!r} is not supported",
            details=f"supported versions: {', '.join(model.VERSIONS)}",
        )
    if not _IDENTIFIER.match(request.network_name):
        raise CniError(
            model.INVALID_CONFIG,
            f"configuration key name has the wrong value {request.network_name!r}",
            details="it must match [a-zA-Z0-9][a-zA-Z0-9_.-]* with at most 255 characters",
        )


def _check_attachment(request: pb.Request) -> None:
    _check_network(request)
    if not _IDENTIFIER.match(request.container_id):
        raise _wrong("CNI_CONTAINERID", f"{request.container_id!r} is no container ID")
    if not _IFNAME.match(request.ifname) or _IFNAME_REFUSED & set(request.ifname):
        raise _wrong("CNI_IFNAME", f"{request.ifname!r} is no interface name")


def _pod(args: pb.PodArgs) -> model.PodRef:
    for value in (args.namespace, args.name, args.uid, args.infra_container_id):
        if value and not _IDENTIFIER.match(value):
            raise _wrong("CNI_ARGS", f"has {value!r}, which is no Kubernetes name")
    return model.PodRef(
        namespace=args.namespace, name=args.name, uid=args.uid, infra_container_id=args.infra_container_id
    )


def add_request(request: pb.Request, check_netns: NetnsCheck, deadline_s: float | None) -> model.AddRequest:
    """A checked ADD; CniError 1, 4, 6 or 7 else."""
    _check_attachment(request)
    check_netns(request.netns)
    given = config.decode(request.config)
    return model.AddRequest(
        cni_version=request.cni_version,
        container_id=request.container_id,
        netns=request.netns,
        ifname=request.ifname,
        network=request.network_name,
        pod=_pod(request.args),
        path=request.path,
        runtime=config.runtime_config(given),
        dns=config.dns(given),
        deadline_s=deadline_s,
        raw_config=request.config,
    )


def del_request(request: pb.Request, deadline_s: float | None) -> model.DelRequest:
    """A checked DEL. Nothing of the configuration can make it fail: what ADD made must be removable."""
    _check_attachment(request)
    try:
        previous = config.previous_result(config.decode(request.config))
    except CniError as error:
        log.warning("DEL goes on without prevResult", container=request.container_id, problem=error.details)
        previous = None
    return model.DelRequest(
        cni_version=request.cni_version,
        container_id=request.container_id,
        netns=request.netns,
        ifname=request.ifname,
        network=request.network_name,
        pod=_pod(request.args),
        previous=previous,
        deadline_s=deadline_s,
    )


def check_request(request: pb.Request, check_netns: NetnsCheck, deadline_s: float | None) -> model.CheckRequest:
    """A checked CHECK with its ``prevResult``; CniError 1, 4, 6 or 7 else."""
    _check_attachment(request)
    check_netns(request.netns)
    previous = config.previous_result(config.decode(request.config))
    if previous is None:
        raise CniError(model.INVALID_CONFIG, "CHECK needs the key prevResult", details="prevResult")
    return model.CheckRequest(
        cni_version=request.cni_version,
        container_id=request.container_id,
        netns=request.netns,
        ifname=request.ifname,
        network=request.network_name,
        pod=_pod(request.args),
        previous=previous,
        deadline_s=deadline_s,
    )


def status_request(request: pb.Request, deadline_s: float | None) -> model.StatusRequest:
    """A checked STATUS; CniError 1 or 7 else."""
    _check_network(request)
    return model.StatusRequest(cni_version=request.cni_version, network=request.network_name, deadline_s=deadline_s)


def gc_request(request: pb.Request, deadline_s: float | None) -> model.GcRequest:
    """A checked GC; CniError 1, 6 or 7 else."""
    _check_network(request)
    return model.GcRequest(
        cni_version=request.cni_version,
        network=request.network_name,
        valid=config.valid_attachments(config.decode(request.config)),
        deadline_s=deadline_s,
    )


def error_reply(error: CniError) -> pb.Reply:
    """An error as the plugin prints it."""
    return pb.Reply(error=pb.Error(code=error.code, msg=error.msg, details=error.details))


def success_reply(result: model.AddResult | None = None) -> pb.Reply:
    """Success, with ADD's result."""
    if result is None:
        return pb.Reply(result=pb.Result())
    return pb.Reply(
        result=pb.Result(
            interfaces=[
                pb.Interface(
                    name=entry.name,
                    mac=entry.mac,
                    sandbox=entry.sandbox,
                    mtu=entry.mtu,
                    socket_path=entry.socket_path,
                    pci_id=entry.pci_id,
                )
                for entry in result.interfaces
            ],
            ips=[_ip(entry) for entry in result.ips],
            routes=[_route(entry) for entry in result.routes],
            dns=pb.DNS(
                nameservers=result.dns.nameservers,
                domain=result.dns.domain,
                search=result.dns.search,
                options=result.dns.options,
            ),
        )
    )


def _number(value: int | None) -> pb.Number | None:
    return None if value is None else pb.Number(value=value)


def _ip(entry: model.CniAddress) -> pb.IPConfig:
    return pb.IPConfig(
        address=str(entry.address),
        gateway="" if entry.gateway is None else str(entry.gateway),
        interface=_number(entry.interface),
    )


def _route(entry: model.CniRoute) -> pb.Route:
    return pb.Route(
        dst=str(entry.dst),
        gw="" if entry.gw is None else str(entry.gw),
        mtu=_number(entry.mtu),
        advmss=_number(entry.advmss),
        priority=_number(entry.priority),
        table=_number(entry.table),
        scope=_number(entry.scope),
    )
