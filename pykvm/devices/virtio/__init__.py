"""virtio 1.2 devices: one queue engine, one transport over PCI, and the devices."""
