"""A virtual machine with a virtio NIC on PCI, Debian's kernel in it: STN, VPP's own driver, TAPs."""
