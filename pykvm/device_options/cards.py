"""ISA cards that few machines have: the printer port and QEMU's device for unit tests."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import ConfigError
from ..typed import TYPE_CHECKING, Any
from .option import Bench, DeviceOption

if TYPE_CHECKING:
    from ..console.printer import PrinterFile

TESTDEV, PRINTER = "pc-testdev", "lpt"
PRINTER_IRQ = 7


class Cards(DeviceOption):
    """Cards by name: "pc-testdev", "lpt" without a printer, or "lpt:FILE"."""

    name = "cards"
    default = ()
    flags = ("--card",)
    multiple = True
    metavar = "lpt[:FILE]|pc-testdev"
    help = "Printer port LPT1, what is printed added to FILE; or QEMU's device for unit tests. As often as wanted."

    def parse(self, text: str) -> str:
        _kind(text)
        return text

    def opened(self, value: Any) -> list[tuple[str, PrinterFile | None]]:
        if not value:
            return []
        if isinstance(value, str) or not all(isinstance(card, str) for card in value):
            raise ConfigError(f"cards={value!r:.40}: give a list of names, such as ['lpt:FILE', 'pc-testdev']")
        kinds = [_kind(text) for text in value]
        if len(set(kinds)) < len(kinds):
            raise ConfigError(f"cards={value!r:.40}: each card can be there once")
        return [(kind, _printer(text)) for kind, text in zip(kinds, value, strict=True)]

    def owned(self, value: Any) -> Iterable[PrinterFile]:
        return [printer for _, printer in value if printer is not None]

    def build(self, value: Any, bench: Bench) -> list[str] | None:
        for kind, printer in value:
            if kind == TESTDEV:
                from ..devices.pc_testdev import INPUTS, PcTestdev, PcTestdevMemory

                bench.board.add(PcTestdev([bench.board.irq(number) for number in range(INPUTS)]))
                bench.board.add(PcTestdevMemory())
            else:
                from ..devices.parallel import ParallelPort

                line = bench.board.irq(PRINTER_IRQ)
                bench.board.add(ParallelPort(line, None if printer is None else printer.print))
        return [kind for kind, _ in value] or None

    def from_snapshot(self, plain: Any) -> list[str]:
        if plain is None:
            return []
        kinds = (TESTDEV, PRINTER)
        if not isinstance(plain, list) or any(kind not in kinds for kind in plain) or len(set(plain)) < len(plain):
            raise ValueError(f"there are the cards {plain!r:.40}")
        return list(plain)


def _kind(text: str) -> str:
    kind, colon, path = text.partition(":")
    if text != TESTDEV and (kind != PRINTER or (colon and not path)):
        raise ConfigError(f"there is no card {text!r}: give lpt, lpt:FILE or pc-testdev")
    return kind


def _printer(text: str) -> PrinterFile | None:
    path = text.partition(":")[2]
    if not path:
        return None
    from ..console.printer import PrinterFile

    return PrinterFile(path)


OPTION = Cards()
