"""Contiv/VPP: a Kubernetes network plugin whose data plane is FD.io VPP.

The flow, one package a hop::

    kube ─▶ ksr ─▶ store (etcd) ─▶ controller ─▶ network, policy, service ─▶ scheduler ─▶ vpp, linux

ARCHITECTURE.md walks one pod through it; ``contiv.fastpath`` is the part that other VPP developers import.
"""

__version__ = "0.1.0"
