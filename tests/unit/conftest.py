"""What tests share asserts as they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ne2000_rig import Rig as Ne2000Rig

pytest.register_assert_rewrite("descriptors", "device_rig", "ata_rig", "i8042_rig", "ne2000_rig", "uart16550_rig")


@pytest.fixture
def ne2000() -> Ne2000Rig:
    """A card as after power-on."""
    from ne2000_rig import Rig

    return Rig()


@pytest.fixture
def running_ne2000(ne2000: Ne2000Rig) -> Ne2000Rig:
    """A card whose driver has started it."""
    ne2000.start()
    return ne2000
