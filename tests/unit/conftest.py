"""Property tests: a slow machine is no reason for one to fail."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("pykvm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pykvm")
