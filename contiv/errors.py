"""The one tree of errors. Whatever this project raises on purpose descends from ``ContivError``.

::

    ContivError
    ├── ConfigError        a setting is wrong: key, value and remedy
    ├── StoreError         etcd refused or could not be reached
    ├── KubeError          the Kubernetes API refused or could not be reached
    ├── VppError           VPP's API: disconnected, timed out, refused (contiv.vpp.errors has the branches)
    ├── LinuxError         the kernel refused a link, an address, a route, a namespace
    ├── SchedulerError     operations of a transaction failed, with their keys
    ├── NetworkError       node IDs, addresses, interfaces of the cluster network
    ├── CniError           a CNI request that cannot be served, with its CNI code
    ├── AnalysisError      manifests or questions about them that cannot be used
    └── DemoError          the demo cluster could not be built

Texts are lower case without a full stop; the object, field and remedy are attributes as well as words.
"""

from __future__ import annotations


class ContivError(Exception):
    """Root of all errors that this project raises on purpose."""


class ConfigError(ContivError):
    """A setting that cannot be used.

    ``key`` is its dotted path in the configuration, ``value`` what stands there, ``remedy`` what to write instead.
    """

    def __init__(self, key: str, value: object, problem: str, *, remedy: str) -> None:
        super().__init__(f"{key} = {value!r}: {problem}; {remedy}")
        self.key = key
        self.value = value
        self.problem = problem
        self.remedy = remedy


class StoreError(ContivError):
    """etcd refused a request or could not be reached."""


class KubeError(ContivError):
    """The Kubernetes API refused a request or could not be reached."""


class VppError(ContivError):
    """Root of everything that goes wrong with VPP's binary API."""


class LinuxError(ContivError):
    """The kernel refused an operation on a link, address, route, neighbour or namespace."""


class SchedulerError(ContivError):
    """Operations of a transaction failed; see the attributes for which."""


class NetworkError(ContivError):
    """The cluster network cannot do what was asked: no free address, no free node ID, unknown node."""


class CniError(ContivError):
    """A CNI request that cannot be served. ``code`` is the CNI specification's (1-99) or ours (100 and up)."""

    def __init__(self, code: int, msg: str, *, details: str = "") -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details


class DemoError(ContivError):
    """The demo cluster could not be built or did not behave."""


class AnalysisError(ContivError):
    """Manifests that cannot be read, or a question about a cluster that has no answer; names file, object and field."""
