"""The network configuration's JSON: what the agent reads of the bytes that the plugin passed on.

In: the configuration as the runtime wrote it, already known to be one JSON object of at most 1 MiB. Out:
structs of ``contiv.cni.model``. Unknown keys are tolerated, as the CNI specification wants; a known key of
the wrong shape is a ``CniError``: code 7, or 6 for a ``prevResult`` that cannot be read. The plugin's own
keys are not read again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from contiv.cni import model
from contiv.errors import CniError
from contiv.model.ip import Address, Network


class _PortMapping(msgspec.Struct, rename="camel"):
    host_port: int = 0
    container_port: int = 0
    protocol: str = "tcp"
    host_ip: str = msgspec.field(default="", name="hostIP")


class _Bandwidth(msgspec.Struct, rename="camel"):
    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class _RuntimeConfig(msgspec.Struct, rename="camel"):
    port_mappings: list[_PortMapping] | None = None
    bandwidth: _Bandwidth | None = None
    ips: list[str] | None = None
    mac: str | None = None


class _Dns(msgspec.Struct):
    nameservers: tuple[str, ...] | None = ()
    domain: str | None = ""
    search: tuple[str, ...] | None = ()
    options: tuple[str, ...] | None = ()


class _Interface(msgspec.Struct, rename="camel"):
    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = msgspec.field(default="", name="pciID")


class _Ip(msgspec.Struct):
    address: str
    gateway: str | None = None
    interface: int | None = None


class _Route(msgspec.Struct):
    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class _Result(msgspec.Struct):
    """A result of any version that we speak: "version" of an address (before 1.0.0) follows from it."""

    interfaces: list[_Interface] | None = None
    ips: list[_Ip] | None = None
    routes: list[_Route] | None = None
    dns: _Dns | None = None


class _Attachment(msgspec.Struct):
    container_id: str = msgspec.field(name="containerID")
    ifname: str = ""


class _Config(msgspec.Struct):
    runtime: _RuntimeConfig | None = msgspec.field(default=None, name="runtimeConfig")
    dns: _Dns | None = None
    previous: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"), name="prevResult")
    # msgspec.UNSET tells an absent list, which GC must not take for an empty one
    valid: list[_Attachment] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name="cni.dev/valid-attachments"
    )
    valid_old: list[_Attachment] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name="cni.dev/attachments"
    )


def decode(raw: bytes) -> _Config:
    """The keys that are ours. CniError 7 names the key that has the wrong shape."""
    try:
        return msgspec.json.decode(raw, type=_Config)
    except msgspec.ValidationError as error:
        raise CniError(model.INVALID_CONFIG, "network configuration is not valid", details=str(error)) from error
    except msgspec.DecodeError as error:
        raise CniError(model.DECODING_FAILURE, "network configuration is no JSON", details=str(error)) from error


def runtime_config(config: _Config) -> model.RuntimeConfig:
    """What the runtime passed by capability. CniError 7 for ports, protocols and addresses that are none."""
    given = config.runtime or _RuntimeConfig()
    try:
        return model.RuntimeConfig(
            # a mapping without a host port asks for nothing (CRI: host_port 0)
            port_mappings=tuple(_port_mapping(m) for m in given.port_mappings or () if m.host_port != 0),
            bandwidth=msgspec.convert(given.bandwidth, model.Bandwidth, from_attributes=True)
            if given.bandwidth
            else None,
            ips=tuple(Network.parse(text, strict=False) for text in given.ips or ()),
            mac=given.mac or "",
        )
    except ValueError as error:
        raise CniError(model.INVALID_CONFIG, "runtimeConfig is not valid", details=str(error)) from error


def _port_mapping(given: _PortMapping) -> model.PortMapping:
    for port in (given.host_port, given.container_port):
        if not 0 < port <= 0xFFFF:
            raise ValueError(f"portMappings: {port} is no port")
    protocol = given.protocol.lower()
    if protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"portMappings: {given.protocol!r} is no protocol; tcp, udp or sctp is expected")
    return model.PortMapping(
        host_port=given.host_port,
        container_port=given.container_port,
        protocol=protocol,  # type: ignore[arg-type]  # narrowed by the check above
        host_ip=Address.parse(given.host_ip) if given.host_ip else None,
    )


def dns(config: _Config) -> model.Dns:
    """The configuration's resolver settings, which a result repeats."""
    return _dns(config.dns)


def _dns(given: _Dns | None) -> model.Dns:
    if given is None:
        return model.Dns()
    return model.Dns(
        nameservers=given.nameservers or (),
        domain=given.domain or "",
        search=given.search or (),
        options=given.options or (),
    )


def previous_result(config: _Config) -> model.AddResult | None:
    """``prevResult``, None where there is none. CniError 6 when it cannot be read."""
    try:
        given = msgspec.json.decode(config.previous, type=_Result | None)
        return None if given is None else _result(given)
    except (msgspec.DecodeError, ValueError) as error:
        raise CniError(model.DECODING_FAILURE, "prevResult cannot be read", details=str(error)) from error


def _result(given: _Result) -> model.AddResult:
    return model.AddResult(
        interfaces=tuple(model.CniInterface(**_fields(entry)) for entry in given.interfaces or ()),
        ips=tuple(
            model.CniAddress(
                address=Network.parse(entry.address, strict=False),
                gateway=Address.parse(entry.gateway) if entry.gateway else None,
                interface=entry.interface,
            )
            for entry in given.ips or ()
        ),
        routes=tuple(
            model.CniRoute(
                **_fields(entry)
                | {"dst": Network.parse(entry.dst), "gw": Address.parse(entry.gw) if entry.gw else None}
            )
            for entry in given.routes or ()
        ),
        dns=_dns(given.dns),
    )


def _fields(entry: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__struct_fields__}


def valid_attachments(config: _Config) -> frozenset[model.Attachment]:
    """What GC keeps. CniError 7 when the list is absent; null is an empty list (how Go writes one)."""
    listed = config.valid_old if config.valid is msgspec.UNSET else config.valid
    if isinstance(listed, msgspec.UnsetType):
        raise CniError(
            model.INVALID_CONFIG,
            "GC needs the key cni.dev/valid-attachments",
            details="cni.dev/valid-attachments",
        )
    return frozenset(model.Attachment(entry.container_id, entry.ifname) for entry in listed or ())
