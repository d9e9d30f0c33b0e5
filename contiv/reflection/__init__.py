"""Collections of the Kubernetes API reflected into etcd by one active process: what KSR and crd have in common.

::

    API server ─list, watch─▶ kube.observe ─▶ reflector (one a collection) ─▶ mirror (what differs) ─▶ etcd, guarded
                                                 leading: election, metrics, one task a collection

What a collection is and how its objects are read is its owner's affair (``collection.Collection``).
"""
