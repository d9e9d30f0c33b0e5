"""The cluster network: who is which node, which address is whose, and what VPP and Linux must hold for it.

::

    node_id (claims an ID in etcd) ─▶ ipam (pure arithmetic) ─▶ render_{node,host,pod} (pure) ─▶ desired keys
                                                     ▲
                 handler (state; events in, changes out; persists attachments) ◀─ controller

``handler`` holds the state, the renderers are functions of it. Nothing here talks to VPP or to the kernel.
"""
