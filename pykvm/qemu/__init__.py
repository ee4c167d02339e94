"""QEMU's door: a machine made from QEMU's command line, with QEMU's monitors, for those who have started QEMU so far.

Sources: QEMU's manual page qemu-system-x86_64(1), "QEMU Monitor" and "QEMU QMP Reference Manual"; what they leave open
was seen of QEMU 7.2.
"""
