"""The pytest plugin: a kernel is booted once, each test gets a guest of its own, and a failure shows what became of it.

Everything but pytest itself is imported when a test asks for a guest: this module is loaded in every run of pytest.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from .guest import Guest
    from .rig import Point, Rig

MACHINE_SETTINGS = {
    "memory": "RAM of the guest, such as 64M",
    "cpus": "number of CPUs",
    "command_line": "the kernel's command line",
}
"""Options of `Machine` that have a setting of their own."""
_RIG = pytest.StashKey["Rig"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The settings, each in pyproject.toml and, where it is the run's business, on the command line."""
    group = parser.getgroup("pykvm", "kernels under test")
    parser.addini("pykvm_kernel", "the kernel to boot, relative to the root directory")
    parser.addini("pykvm_until", "the text on COM1 with which it has booted")
    for name, meaning in MACHINE_SETTINGS.items():
        parser.addini(f"pykvm_{name}", meaning)
    parser.addini("pykvm_timeout", "seconds for a guest to do what is expected of it (10)")
    parser.addini("pykvm_limit", "seconds after which a guest's run is ended (60; 0: never)")
    parser.addini("pykvm_isolation", "what each test gets: a fork, or a reset of one guest (fork)", default="fork")
    group.addoption("--pykvm-kernel", metavar="FILE", help="boot this kernel in place of pykvm_kernel")
    group.addoption("--pykvm-timeout", type=float, metavar="S", help="in place of pykvm_timeout")
    group.addoption("--pykvm-limit", type=float, metavar="S", help="in place of pykvm_limit")
    group.addoption("--pykvm-isolation", choices=("fork", "reset"), help="in place of pykvm_isolation")
    group.addoption("--pykvm-required", action="store_true", help="without KVM tests fail; else they are skipped")
    group.addoption(
        "--pykvm-artifacts", metavar="DIR",
        help="of each failure keep serial log, screen, crash report and a snapshot there",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Say what the marker takes."""
    config.addinivalue_line(
        "markers",
        "pykvm(kernel, until=..., at=..., isolation=..., timeout=..., limit=..., **options): what the fixture "
        "`machine` boots; `at` is a fixture that is a Point; options are those of pykvm.Machine",
    )


def _number(config: pytest.Config, name: str, default: float) -> float:
    given = config.getoption(f"--pykvm-{name}")
    if given is None:
        text = config.getini(f"pykvm_{name}")
        try:
            given = float(text) if text else default
        except ValueError:
            given = -1.0
    if not 0 <= given < 1e9:
        _fail(f"pykvm_{name} is a number of seconds")
    return float(given)


@pytest.fixture(scope="session")
def pykvm_rig(pytestconfig: pytest.Config) -> Iterator[Rig]:
    """Where guests come from: `boot(kernel, until=...)` gives a Point. Without KVM it skips, or fails."""
    from ..kvm.errors import KvmUnavailable
    from .rig import LIMIT, TIMEOUT, Rig

    timeout, limit = _number(pytestconfig, "timeout", TIMEOUT), _number(pytestconfig, "limit", LIMIT)
    try:
        rig = Rig(timeout=timeout, limit=limit or None)
    except KvmUnavailable as error:
        if pytestconfig.getoption("--pykvm-required"):
            pytest.fail(f"no KVM: {error}", pytrace=False)
        pytest.skip(f"no KVM: {error}")
    pytestconfig.stash[_RIG] = rig
    with rig:
        yield rig
    del pytestconfig.stash[_RIG]


@pytest.fixture(scope="session")
def pykvm_points(pykvm_rig: Rig) -> dict[str, Point]:
    """The points that kernels were booted to as settings and markers say, by these."""
    return {}


@pytest.fixture
def machine(request: pytest.FixtureRequest, pykvm_rig: Rig, pykvm_points: dict[str, Point]) -> Iterator[Guest]:
    """A guest at the point that settings and the marker `pykvm` say: what a test does to it reaches no other."""
    wanted = _wanted(request)
    isolation, at = wanted.pop("isolation"), wanted.pop("at", None)
    times = {name: wanted.pop(name, None) for name in ("timeout", "limit")}
    if isolation not in ("fork", "reset"):
        _fail(f'isolation is "fork" or "reset", not {isolation!r}')
    if at is None:
        point = _booted(pykvm_rig, pykvm_points, wanted)
    else:
        point = request.getfixturevalue(at)
        if not hasattr(point, "again"):
            _fail(f"the fixture {at!r} is no point: return what boot() or then() do")
    guest = point.fork(**times) if isolation == "fork" else point.again(**times)
    try:
        yield guest
    finally:
        guest.close()


def _booted(rig: Rig, points: dict[str, Point], wanted: dict[str, Any]) -> Point:
    """The point of these settings, to which the first that asks for it boots a kernel."""
    from ..errors import PykvmError

    key = repr(sorted(wanted.items()))
    if key not in points:
        if wanted.get("kernel") is None and not wanted.get("disks"):
            _fail('which kernel? Say pykvm_kernel in the settings, --pykvm-kernel, or @pytest.mark.pykvm("kernel.elf")')
        mistake = ""
        try:
            points[key] = rig.boot(**wanted)
        except (PykvmError, TypeError) as error:  # TypeError: there is no such option
            mistake = str(error)
        if mistake:
            _fail(mistake)
    return points[key]


def _fail(mistake: str) -> NoReturn:
    """What a person has to change, without a traceback, which would tell nothing of it."""
    pytest.fail(f"pykvm: {mistake}", pytrace=False)


def _wanted(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings, then the command line, then markers, the nearest last."""
    config = request.config
    wanted: dict[str, Any] = {"kernel": None, "until": config.getini("pykvm_until") or None}
    for name in MACHINE_SETTINGS:
        if text := config.getini(f"pykvm_{name}"):
            wanted[name] = int(text) if text.isdecimal() else text
    wanted["isolation"] = config.getoption("--pykvm-isolation") or config.getini("pykvm_isolation")
    if kernel := config.getini("pykvm_kernel"):
        wanted["kernel"] = os.path.join(config.rootpath, kernel)
    for marker in reversed(list(request.node.iter_markers("pykvm"))):
        if len(marker.args) > 1:
            _fail(f"the marker takes one kernel, not {len(marker.args)}")
        wanted.update(marker.kwargs)
        if marker.args:
            kernel = marker.args[0]
            wanted["kernel"] = kernel if isinstance(kernel, bytes) else os.path.join(config.rootpath, kernel)
    if kernel := config.getoption("--pykvm-kernel"):
        wanted["kernel"] = os.path.join(config.invocation_params.dir, kernel)
    return wanted


# What a failure shows


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure's report what its guests have come to; they hold still from then on, for `--pdb` as well."""
    report = yield
    rig = item.config.stash.get(_RIG, None)
    if report.failed and rig is not None and call.when != "teardown":
        for number, guest in enumerate(list(rig.guests)):
            which = f" {number + 1}" if len(rig.guests) > 1 else ""
            try:
                found = guest.evidence()
                for title, text in found.sections():
                    report.sections.append((f"pykvm{which}: {title}", text))
                if directory := item.config.getoption("--pykvm-artifacts"):
                    report.sections.append((f"pykvm{which}: kept", _keep(guest, found, directory, item.nodeid, which)))
            except Exception as error:
                report.sections.append((f"pykvm{which}: nothing to show", f"{type(error).__name__}: {error}"))
    return report


def _keep(guest: Guest, found: Any, directory: str, nodeid: str, which: str) -> str:
    from .evidence import save

    name = re.sub(r"[^\w.-]+", "-", nodeid).strip("-.")[:120]
    if name != nodeid:
        name += f"-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"
    path = os.path.abspath(os.path.join(directory, name, which.strip()))
    return "\n".join([path, *save(guest.machine, found, path)])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Close what the test has left for its report and a debugger."""
    try:
        return (yield)
    finally:
        rig = item.config.stash.get(_RIG, None)
        if rig is not None:
            rig.begin()
