"""KSR: Kubernetes state reflected into etcd, by one active instance, so that agents never ask the API server.

The way there is ``contiv.reflection``; here is what KSR reflects, and its composition root.
"""
