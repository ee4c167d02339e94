"""gdb's remote protocol over a machine: `GdbServer`.

Source: "Debugging with GDB" (sourceware.org/gdb/current/onlinedocs/gdb), appendices E (remote protocol) and G (target
descriptions). packets.py frames, session.py answers, registers.py and target.py say what a CPU is, monitor.py is what
`monitor` can ask for, server.py has the socket and the thread.
"""

from .server import DEFAULT_ADDRESS, GdbServer

__all__ = ["DEFAULT_ADDRESS", "GdbServer"]
