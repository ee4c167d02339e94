"""Device models, one chip a file: each knows its registers, an IRQ line and a backend, and nothing else."""
