"""Property tests: a slow machine is no reason for one to fail. What tests share asserts as they do."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("pykvm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pykvm")

pytest.register_assert_rewrite("device_rig", "ata_rig", "i8042_rig", "ne2000_rig", "uart16550_rig")
