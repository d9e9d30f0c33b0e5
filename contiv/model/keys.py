"""Where everything lives in etcd. One function a kind of key; nobody else spells a path.

::

    /contiv/k8s/<plural>/[<namespace>/]<name>     Kubernetes state, written by KSR alone
    /contiv/ksr/leader                            the active KSR, under its lease
    /contiv/ksr/status/<plural>                   KSR's word that a kind is completely reflected
    /contiv/crd/leader                            the active crd, under its lease
    /contiv/crd/status/<plural>                   crd's word that a kind of custom resources is completely there
    /contiv/crd/nodeconfigs/<node>                what a node has of its own, written by crd alone
    /contiv/nodes/ids/<id>                        node IDs, each claimed by its agent in a transaction
    /contiv/nodes/status/<node>                   what an agent says of itself, under its lease
    /contiv/vswitch/<node>/pods/<container id>/<interface>
                                                  pod attachments, written by the node's agent alone
    /contiv/vswitch/<node>/mirror-behind          there while the copy on the node's disk cannot be written
"""

from __future__ import annotations

from typing import Final

ROOT: Final = "/contiv/"
K8S: Final = f"{ROOT}k8s/"
KSR_LEADER: Final = f"{ROOT}ksr/leader"
KSR_STATUS: Final = f"{ROOT}ksr/status/"
CRD_LEADER: Final = f"{ROOT}crd/leader"
CRD_STATUS: Final = f"{ROOT}crd/status/"
NODE_CONFIGS: Final = f"{ROOT}crd/nodeconfigs/"
NODE_CONFIGS_STATUS: Final = f"{CRD_STATUS}nodeconfigs"
NODE_IDS: Final = f"{ROOT}nodes/ids/"
NODE_STATUS: Final = f"{ROOT}nodes/status/"
VSWITCH: Final = f"{ROOT}vswitch/"


def k8s_kind(plural: str) -> str:
    """Prefix of all reflected objects of one kind, by the API's plural: ``pods``, ``endpointslices``."""
    return f"{K8S}{plural}/"


def k8s_object(plural: str, name: str, *, namespace: str = "") -> str:
    """Key of one reflected object; cluster-scoped kinds have no namespace."""
    return f"{K8S}{plural}/{namespace}/{name}" if namespace else f"{K8S}{plural}/{name}"


def ksr_status(plural: str) -> str:
    """Key under which KSR says that a kind is completely reflected."""
    return f"{KSR_STATUS}{plural}"


def node_config(node: str) -> str:
    """Key of the custom resource that configures one node."""
    return f"{NODE_CONFIGS}{node}"


def node_id(number: int) -> str:
    """Key of a node's claim on an ID. Equal width, so that etcd's order is the numbers' order."""
    return f"{NODE_IDS}{number:05d}"


def node_status(node: str) -> str:
    """Key of the status that a node's agent publishes."""
    return f"{NODE_STATUS}{node}"


def attachments(node: str) -> str:
    """Prefix of the pod attachments of one node."""
    return f"{VSWITCH}{node}/pods/"


def attachment(node: str, owner: str) -> str:
    """Key of one pod's attachment; ``owner`` is ``<container id>/<interface>``: a sandbox may have several."""
    return f"{attachments(node)}{owner}"


def vswitch(node: str) -> str:
    """Prefix of all that one node's agent keeps in etcd for its own restart."""
    return f"{VSWITCH}{node}/"


def mirror_behind(node: str) -> str:
    """Key that is there while a node's mirror on disk lacks what etcd has."""
    return f"{VSWITCH}{node}/mirror-behind"
