"""Crash reports: why a guest died, worked out from its registers and its memory after the end.

`explain` makes the report of a machine whose run has ended. `report` has what a report is, as data; `text` prints one.
`examine` puts one together: `cause` finds the chain of exceptions and says it in a sentence, `backtrace` reads the
stack, `source` the image's debug information, `suspect`, `frames` and `handler` whether a CPU that halted did so in an
exception handler, and `replay` gets back a state that KVM has thrown away. `pykvm.x86` has the architecture's part.
"""
