"""Services without kube-proxy: services and endpoint slices become translations in VPP.

``endpoints`` reads slices and picks who serves, ``frontends`` says which addresses and ports a service claims,
``state`` joins both and knows what each change touches, ``render_nat44`` or ``render_cnat`` makes desired values of it.
``handler`` is the seat in the event loop, ``health`` answers load balancers that ask about this node.
"""
