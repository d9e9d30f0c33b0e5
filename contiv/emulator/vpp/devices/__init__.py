"""Interfaces with a kernel side: raw sockets on links, TAPs, and the virtio-net header that both speak."""
