"""Tracing: every exit of a vCPU from the guest, in words, as a table, and on a time line."""

from .event import Event as Event
from .event import Site as Site
from .summary import Summary as Summary
from .tracer import AddressRange as AddressRange
from .tracer import Filter as Filter
from .tracer import Outlet as Outlet
from .tracer import Times as Times
from .tracer import Tracer as Tracer
