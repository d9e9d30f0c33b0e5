"""What the emulated VPP serves with: the event loop, the API and CLI sockets, the text of the CLI, startup.conf."""
