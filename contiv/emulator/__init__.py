"""Emulated neighbours, each a process of its own: ``vpp`` (a data plane) and ``kube`` (a Kubernetes API server).

They serve the demo, the tests and anyone who wants to try the project without a cluster. The product never imports
them; they answer on the same sockets and in the same words as the real thing, and what differs is a bug here.
"""
