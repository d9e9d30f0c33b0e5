"""The Kubernetes API, read: credentials, lists by page, watches that survive. Used by ``ksr`` and ``crd``
alone.

::

    kubeconfig, service account -> access.AccessSource -> client.KubeClient -> listing.list_pages ┐
                                                                └-> watching.watch_once          ├-> observe
"""
