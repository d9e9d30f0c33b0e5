"""What the CNI server and its handler exchange: frozen requests and results, addresses as integers.

``CniServer`` makes the requests from what the plugin sent and turns the results back; the agent implements
``CniHandler``. Nothing here does I/O. ``contiv.cni.config`` decodes the network configuration's JSON.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol

import msgspec

from contiv.model.ip import Address, Network

# CNI specification 1.1, "Well-known Error Codes"
INCOMPATIBLE_VERSION: Final = 1
UNSUPPORTED_FIELD: Final = 2
UNKNOWN_CONTAINER: Final = 3
INVALID_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
DECODING_FAILURE: Final = 6
INVALID_CONFIG: Final = 7
TRY_AGAIN_LATER: Final = 11
NOT_AVAILABLE: Final = 50  # STATUS: the plugin cannot serve ADD
LIMITED_CONNECTIVITY: Final = 51  # STATUS: it cannot, and existing containers may have lost connectivity
INTERNAL: Final = 999

VERSIONS: Final = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")


class PodRef(msgspec.Struct, frozen=True, kw_only=True):
    """The pod that CNI_ARGS names; a field is empty where the runtime did not give it."""

    namespace: str = ""
    name: str = ""
    uid: str = ""
    infra_container_id: str = ""


class Attachment(msgspec.Struct, frozen=True, order=True):
    """One interface of one container: what ADD makes and DEL removes."""

    container_id: str
    ifname: str


class PortMapping(msgspec.Struct, frozen=True, kw_only=True):
    """A HostPort, from ``runtimeConfig.portMappings``. ``host_ip`` None means every address of the host."""

    host_port: int
    container_port: int
    protocol: Literal["tcp", "udp", "sctp"]
    host_ip: Address | None = None


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Limits from ``runtimeConfig.bandwidth``: rates in bit/s, bursts in bits; 0 means no limit."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


class RuntimeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime passes by capability (CNI conventions). Empty where it passed nothing."""

    port_mappings: tuple[PortMapping, ...] = ()
    bandwidth: Bandwidth | None = None
    ips: tuple[Network, ...] = ()
    mac: str = ""


class CniInterface(msgspec.Struct, frozen=True, kw_only=True):
    """An interface in a result; ``sandbox`` is its network namespace's path, empty on the host."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


class CniAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An interface address in a result, host bits kept; ``interface`` is an index into its interfaces."""

    address: Network
    gateway: Address | None = None
    interface: int | None = None


class CniRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route in a result. The numbers appear in results of version 1.1.0 on."""

    dst: Network
    gw: Address | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Dns(msgspec.Struct, frozen=True, kw_only=True):
    """Resolver settings in a result or a configuration."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class AddResult(msgspec.Struct, frozen=True, kw_only=True):
    """What ADD made, in no version: the plugin prints it in the one asked for."""

    interfaces: tuple[CniInterface, ...] = ()
    ips: tuple[CniAddress, ...] = ()
    routes: tuple[CniRoute, ...] = ()
    dns: Dns = Dns()


class AddRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Attach a container. The namespace existed when the request was checked."""

    cni_version: str
    container_id: str
    netns: str
    ifname: str
    network: str
    pod: PodRef
    path: str
    runtime: RuntimeConfig
    dns: Dns
    deadline_s: float | None  # seconds left until the plugin gives up, when the handler is called
    raw_config: bytes

    @property
    def attachment(self) -> Attachment:
        """What this request is about."""
        return Attachment(self.container_id, self.ifname)


class DelRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Detach a container; ``netns`` may be empty or gone, the attachment unknown: that is success."""

    cni_version: str
    container_id: str
    netns: str
    ifname: str
    network: str
    pod: PodRef
    previous: AddResult | None
    deadline_s: float | None

    @property
    def attachment(self) -> Attachment:
        """What this request is about."""
        return Attachment(self.container_id, self.ifname)


class CheckRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Is the attachment as ADD left it? ``previous`` is what ADD returned, as the runtime kept it."""

    cni_version: str
    container_id: str
    netns: str
    ifname: str
    network: str
    pod: PodRef
    previous: AddResult
    deadline_s: float | None

    @property
    def attachment(self) -> Attachment:
        """What this request is about."""
        return Attachment(self.container_id, self.ifname)


class StatusRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Could an ADD succeed now?"""

    cni_version: str
    network: str
    deadline_s: float | None


class GcRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Remove every attachment of this network that is not among ``valid``."""

    cni_version: str
    network: str
    valid: frozenset[Attachment]
    deadline_s: float | None


class CniHandler(Protocol):
    """What serves CNI: the agent.

    Each method raises ``contiv.errors.CniError`` for what the runtime shall see; any other exception
    becomes code 999. The server never runs two of add, delete and check for one attachment at once, and
    never runs gc beside them. A call is not cancelled because its client vanished; it is cancelled at the
    server's own limit (``Limits``) and when the server stops, and must then leave nothing half done.
    """

    async def add(self, request: AddRequest, /) -> AddResult:
        """Attach; a repeated ADD returns the first one's result. What fails half way is rolled back."""

    async def delete(self, request: DelRequest, /) -> None:
        """Detach; succeeds for what is gone already."""

    async def check(self, request: CheckRequest, /) -> None:
        """Raise CniError when the attachment is not as ``request.previous`` says."""

    async def status(self, request: StatusRequest, /) -> None:
        """Raise CniError with NOT_AVAILABLE or LIMITED_CONNECTIVITY when an ADD would fail."""

    async def gc(self, request: GcRequest, /) -> None:
        """Remove what is attached and not valid; goes on past failures and raises at the end."""
