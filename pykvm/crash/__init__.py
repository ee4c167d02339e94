"""Crash reports: why a guest died, worked out from its registers and its memory after the end.

`event` has the kinds of crashes, `post_mortem` what is left of a guest. `explain` makes the report from these; `report`
has what a report is, as data; `text` prints one. `examine` puts one together: `cause` finds the chain of exceptions and
says it in a sentence, `backtrace` reads the stack, `source` the image's debug information, and `places` what the image
says of addresses. `stack_scan`, `frames` and `handler` tell whether a CPU that halted did so in an exception handler,
`location` where the CPUs of a run without an end were. `pykvm.x86` has the architecture's part, and `pykvm.replay` gets
back a state that KVM has thrown away.
"""
