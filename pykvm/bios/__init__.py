"""A PC BIOS whose services are Python: what boot sectors, boot loaders and real-mode programs call by INT.

`rom` is what the guest sees of it, `service.Bios` the device that answers, and one module each the services: `video`
(INT 10h), `disk` (13h), `system` (11h, 12h, 15h), `keyboard` (9, 16h), `serial` (14h, 17h), `clock` (1Ah). The BIOS
reaches the hardware as a BIOS does, through ports, and the guest through its memory; it knows neither KVM nor threads.
"""
