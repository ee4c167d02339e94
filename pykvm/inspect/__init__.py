"""Looking into a machine that stands still: CPUs, descriptor tables, page tables, devices, chips, as plain dataclasses.

The machine must not run meanwhile: before its start, paused, or after its end. Nothing here changes it.
"""

from .cpu import CpuState as CpuState
from .cpu import cpu_state as cpu_state
from .devices import DeviceState as DeviceState
from .devices import chip_states as chip_states
from .devices import device_states as device_states
from .tables import DescriptorTables as DescriptorTables
from .tables import descriptor_tables as descriptor_tables
from .tables import page_tables as page_tables
