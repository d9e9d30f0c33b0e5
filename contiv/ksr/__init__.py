"""KSR: Kubernetes state reflected into etcd, by one active instance, so that agents never ask the API server.

::

    API server ─list, watch─▶ kube.observe ─▶ reflector (one a kind) ─▶ mirror (what differs) ─▶ etcd, guarded
                                                    main: election, metrics, one task a kind
"""
