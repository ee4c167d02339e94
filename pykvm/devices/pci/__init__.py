"""PCI: configuration space, the chip set's functions, slots, and the base class of cards."""
