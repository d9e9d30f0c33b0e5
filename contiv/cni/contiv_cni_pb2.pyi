from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DNS(_message.Message):
    __slots__ = ["domain", "nameservers", "options", "search"]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    NAMESERVERS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_FIELD_NUMBER: _ClassVar[int]
    domain: str
    nameservers: _containers.RepeatedScalarFieldContainer[str]
    options: _containers.RepeatedScalarFieldContainer[str]
    search: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, nameservers: _Optional[_Iterable[str]] = ..., domain: _Optional[str] = ..., search: _Optional[_Iterable[str]] = ..., options: _Optional[_Iterable[str]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ["code", "details", "msg"]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    MSG_FIELD_NUMBER: _ClassVar[int]
    code: int
    details: str
    msg: str
    def __init__(self, code: _Optional[int] = ..., msg: _Optional[str] = ..., details: _Optional[str] = ...) -> None: ...

class IPConfig(_message.Message):
    __slots__ = ["address", "gateway", "interface"]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    INTERFACE_FIELD_NUMBER: _ClassVar[int]
    address: str
    gateway: str
    interface: Number
    def __init__(self, address: _Optional[str] = ..., gateway: _Optional[str] = ..., interface: _Optional[_Union[Number, _Mapping[str, object]]] = ...) -> None: ...

class Interface(_message.Message):
    __slots__ = ["mac", "mtu", "name", "pci_id", "sandbox", "socket_path"]
    MAC_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PCI_ID_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    SOCKET_PATH_FIELD_NUMBER: _ClassVar[int]
    mac: str
    mtu: int
    name: str
    pci_id: str
    sandbox: str
    socket_path: str
    def __init__(self, name: _Optional[str] = ..., mac: _Optional[str] = ..., sandbox: _Optional[str] = ..., mtu: _Optional[int] = ..., socket_path: _Optional[str] = ..., pci_id: _Optional[str] = ...) -> None: ...

class Number(_message.Message):
    __slots__ = ["value"]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: int
    def __init__(self, value: _Optional[int] = ...) -> None: ...

class PodArgs(_message.Message):
    __slots__ = ["infra_container_id", "name", "namespace", "uid"]
    INFRA_CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    infra_container_id: str
    name: str
    namespace: str
    uid: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., infra_container_id: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ["error", "result"]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    error: Error
    result: Result
    def __init__(self, result: _Optional[_Union[Result, _Mapping[str, object]]] = ..., error: _Optional[_Union[Error, _Mapping[str, object]]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ["args", "cni_version", "config", "container_id", "ifname", "netns", "network_name", "path"]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    CNI_VERSION_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    IFNAME_FIELD_NUMBER: _ClassVar[int]
    NETNS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    args: PodArgs
    cni_version: str
    config: bytes
    container_id: str
    ifname: str
    netns: str
    network_name: str
    path: str
    def __init__(self, cni_version: _Optional[str] = ..., container_id: _Optional[str] = ..., netns: _Optional[str] = ..., ifname: _Optional[str] = ..., args: _Optional[_Union[PodArgs, _Mapping[str, object]]] = ..., path: _Optional[str] = ..., network_name: _Optional[str] = ..., config: _Optional[bytes] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ["dns", "interfaces", "ips", "routes"]
    DNS_FIELD_NUMBER: _ClassVar[int]
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    IPS_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    dns: DNS
    interfaces: _containers.RepeatedCompositeFieldContainer[Interface]
    ips: _containers.RepeatedCompositeFieldContainer[IPConfig]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    def __init__(self, interfaces: _Optional[_Iterable[_Union[Interface, _Mapping[str, object]]]] = ..., ips: _Optional[_Iterable[_Union[IPConfig, _Mapping[str, object]]]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping[str, object]]]] = ..., dns: _Optional[_Union[DNS, _Mapping[str, object]]] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ["advmss", "dst", "gw", "mtu", "priority", "scope", "table"]
    ADVMSS_FIELD_NUMBER: _ClassVar[int]
    DST_FIELD_NUMBER: _ClassVar[int]
    GW_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    advmss: Number
    dst: str
    gw: str
    mtu: Number
    priority: Number
    scope: Number
    table: Number
    def __init__(self, dst: _Optional[str] = ..., gw: _Optional[str] = ..., mtu: _Optional[_Union[Number, _Mapping[str, object]]] = ..., advmss: _Optional[_Union[Number, _Mapping[str, object]]] = ..., priority: _Optional[_Union[Number, _Mapping[str, object]]] = ..., table: _Optional[_Union[Number, _Mapping[str, object]]] = ..., scope: _Optional[_Union[Number, _Mapping[str, object]]] = ...) -> None: ...
