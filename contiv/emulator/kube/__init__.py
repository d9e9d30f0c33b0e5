"""An emulated Kubernetes API server, good enough for kubectl, for KSR and for the demo's kubelet stand-in.

::

    HTTP ─▶ server ─▶ requests (parse) ─▶ verbs ─▶ strategy (defaults, services, validation, apply) ─▶ store
                │                      └▶ lists, watch ─▶ views (whole, Table, metadata) ◀─────────────┘
                ├▶ discovery, openapi (from kinds; crd adds to them)
                └▶ faults (POST /_faults)

``python -m contiv.emulator.kube`` runs it as a process, ``EmulatedKube`` inside one, ``process.spawn`` starts the
process and takes it along. No controllers but one: a deleted namespace takes its content with it. No authentication.
"""

from contiv.emulator.kube.cluster import Cluster, Settings
from contiv.emulator.kube.emulated import EmulatedKube, kubeconfig, write_kubeconfig
from contiv.emulator.kube.faults import Faults
from contiv.emulator.kube.process import KubeProcess, run, spawn

__all__ = [
    "Cluster",
    "EmulatedKube",
    "Faults",
    "KubeProcess",
    "Settings",
    "kubeconfig",
    "run",
    "spawn",
    "write_kubeconfig",
]
