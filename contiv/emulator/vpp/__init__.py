"""The emulated VPP: VPP's binary API on a Unix socket in front of a data plane that forwards real packets.

::

  __main__ ─▶ loop (epoll) ─┬─▶ api_server ─▶ handlers/* ─▶ machine (interfaces, tables, bridges) ─┐
                            ├─▶ cli_server ─▶ cli                                                  ▼
                            └─▶ af_packet, tap (frames in) ─▶ graph ─▶ interface.transmit ─▶ frames out

The agent does not know which of the two it talks to. What is not supported is refused with VPP's own error codes.
"""
