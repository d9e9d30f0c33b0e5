"""A live cluster's objects: from the API server, or from Contiv's etcd as KSR reflects it.

In: a kubeconfig or an etcd. Out: ``Objects`` as of one moment a kind. Objects that cannot be read are left out, as
agents leave them out, and noted.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

import msgspec

from contiv.analysis.manifests import Objects
from contiv.config import EtcdConfig
from contiv.credentials import credentials
from contiv.kube.access import AccessSource
from contiv.kube.client import KubeClient
from contiv.kube.listing import list_pages
from contiv.model import keys, kube
from contiv.model.kubewire import ObjectError, reduce
from contiv.network.node_id import parse_claims
from contiv.store.client import Etcd

TIMEOUT_S: Final = 10.0


async def from_api(kubeconfig: str) -> Objects:
    """What the API server of ``kubeconfig`` has. ConfigError for a file of no use, KubeError for a server of none."""
    objects: list[kube.KubeObject] = []
    notes: list[str] = []
    access = AccessSource(kubeconfig)
    await access.current()  # a file that is not there is named as such, before anything is tried
    async with KubeClient(access) as client:
        for kind in kube.KINDS:
            async with aclosing(list_pages(client, kind.collection_path)) as pages:
                async for page in pages:
                    for raw in page.items:
                        try:
                            objects.append(reduce(kind, raw))
                        except ObjectError as error:
                            notes.append(str(error))
    return Objects(tuple(objects), notes=tuple(notes))


async def from_etcd(config: EtcdConfig) -> Objects:
    """What KSR has written to etcd, with the IDs of the nodes. StoreError when it cannot be read."""
    objects: list[kube.KubeObject] = []
    notes: list[str] = []
    async with await Etcd.connect(config.endpoints, **credentials(config), timeout_s=TIMEOUT_S) as etcd:
        stored = (await etcd.get_prefix(keys.K8S)).records
        claims = (await etcd.get_prefix(keys.NODE_IDS)).records
    for key, record in stored.items():
        try:
            objects.append(kube.parse(key, record.value))
        except (KeyError, msgspec.DecodeError) as error:
            notes.append(f"{key} in etcd cannot be read, left out: {error}")
    known = parse_claims({key: record.value for key, record in claims.items()})
    return Objects(tuple(objects), claims=tuple(known.values()), notes=tuple(notes))
