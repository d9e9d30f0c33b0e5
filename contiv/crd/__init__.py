"""crd: custom resources checked and brought into etcd, by one active instance, with their status said back.

The way there is ``contiv.reflection``; here is what the resources mean (``nodeconfigs``), who writes their status
(``reporting``), and the composition root.
"""
