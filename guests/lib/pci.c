/* PCI configuration space by mechanism 1 (PCI Local Bus Specification 3.0, 3.2.2.3.2), bus 0. */
#include "lib.h"

enum { CONFIG_ADDRESS = 0xCF8, CONFIG_DATA = 0xCFC };
enum { STATUS_CAPABILITIES = 1 << 4 };

static void select(struct pci p, unsigned at) {
    outl(CONFIG_ADDRESS, 1u << 31 | p.device << 11 | p.function << 8 | (at & 0xFC));
}

uint32_t pci_read(struct pci p, unsigned at, unsigned size) {
    select(p, at);
    uint16_t port = CONFIG_DATA + (at & 3);
    return size == 4 ? inl(port) : size == 2 ? inw(port) : inb(port);
}

void pci_write(struct pci p, unsigned at, unsigned size, uint32_t value) {
    select(p, at);
    uint16_t port = CONFIG_DATA + (at & 3);
    if (size == 4)
        outl(port, value);
    else if (size == 2)
        outw(port, value);
    else
        outb(port, value);
}

bool pci_next(struct pci *p) {
    while (++p->function < 8 || (p->function = 0, ++p->device < 32)) {
        if (pci_read(*p, PCI_ID, 2) != 0xFFFF)
            return true;
        if (p->function == 0) /* nobody has other functions without this one */
            p->function = 7;
    }
    return false;
}

uint64_t pci_bar(struct pci p, int number) {
    uint32_t low = pci_read(p, PCI_BAR0 + 4 * number, 4);
    if (low & 1)
        return low & ~3u;
    uint64_t high = low & 4 ? pci_read(p, PCI_BAR0 + 4 * number + 4, 4) : 0;
    return high << 32 | (low & ~0xFu);
}

unsigned pci_capability(struct pci p, uint8_t id) {
    if (!(pci_read(p, PCI_STATUS, 2) & STATUS_CAPABILITIES))
        return 0;
    unsigned at = pci_read(p, PCI_CAPABILITIES, 1) & 0xFC;
    for (int seen = 0; at && seen < 48; seen++, at = pci_read(p, at + 1, 1) & 0xFC)
        if (pci_read(p, at, 1) == id)
            return at;
    return 0;
}
