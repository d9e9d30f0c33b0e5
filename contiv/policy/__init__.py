"""Network policies: from Kubernetes objects and attached pods to access lists on VPP's interfaces.

::

    kube objects ─▶ rules.py (one policy, read) ─▶ state.py (which local pods, which sides) ─▶ tables.py (lists)
                    selectors.py, index.py (who is a peer)                                      ─▶ render.py (keys)

``handler.py`` is the capability's seat in the event loop. Nothing here does I/O except that the handler logs faults.
Everything fails closed: what is not known yet is isolated, what cannot be read allows nothing.
"""
