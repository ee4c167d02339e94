"""What makes a board run: the vCPUs' threads, the lock, and what becomes of an exit.

Three objects live differently long. `board` is the hardware, and lives as long as the machine: buses, lines, RAM and
CPUs. A `run` is one stretch from a start to its end. The `gate` keeps the vCPUs out of the guest while somebody looks.
`engine` joins them; `runner` is one vCPU's thread, `entry` what wraps its way into the guest, `eventloop` the I/O
thread, `halt_watch` notices that nothing will ever happen again, `power_on` has the state after power-on.
docs/internals.md follows one exit through them.
"""
