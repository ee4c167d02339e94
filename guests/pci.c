/* A driver of the teaching card (docs/pci.md is its data sheet): lists the functions of bus 0, then has every such card
 * compute and interrupt by its pin, through the 8259s and through the IOAPIC; and the first one by MSI and MSI-X, and
 * move data by DMA. */
#include "lib/lib.h"

enum { VENDOR = 0x1234, DEVICE = 0x7EAC, MOST = 32 };
enum { IDENT = 0x00, SCRATCH = 0x04, STATUS = 0x08, INTERRUPT_ENABLE = 0x0C, INTERRUPT_STATUS = 0x10 }; /* in BAR 0 */
enum { INTERRUPT_RAISE = 0x14, NUMBER = 0x20, FACTORIAL = 0x28, DMA_ADDRESS = 0x40, DMA_LENGTH = 0x48 };
enum { DMA_OFFSET = 0x4C, DMA_COMMAND = 0x50 };
enum { OVERFLOW = 1 << 0, DMA_FAILED = 1 << 1 };                        /* of STATUS */
enum { BY_FACTORIAL = 1 << 0, BY_DMA = 1 << 1, BY_SOFTWARE = 1 << 2 }; /* of the interrupt registers */
enum { TO_DEVICE = 1, TO_RAM = 2 };
enum { BUFFER = 4096, IOAPIC = 0xFEC00000, PIN_VECTOR = 0x50, MESSAGE_VECTOR = 0x60 };

struct card {
    struct pci at;
    volatile uint8_t *registers, *buffer;
} cards[MOST];
static int count;
static struct card *volatile current; /* whose turn it is to interrupt */
static volatile int pins, messages[4];
static uint8_t data[BUFFER], back[BUFFER];
static volatile uintptr_t ebda_segment = 0x40E; /* volatile: a compiler takes what is below 4096 for a null pointer */
static uint64_t mp_table;

static uint32_t get(struct card *c, int at) { return *(volatile uint32_t *)(c->registers + at); }
static void set(struct card *c, int at, uint32_t value) { *(volatile uint32_t *)(c->registers + at) = value; }

static _Noreturn void fail(struct card *c, const char *what) {
    printf("pci: FAILED: 00:%02x.%d %s\n", c->at.device, c->at.function, what);
    exit_guest(1);
}

static void on_pin(struct frame *frame) {
    (void)frame;
    uint32_t causes = get(current, INTERRUPT_STATUS);
    set(current, INTERRUPT_STATUS, causes); /* before the end of interrupt: the line is a level */
    if (causes) /* else it was another card's on the same line, or nobody's */
        pins++;
}

static void on_ioapic(struct frame *frame) {
    on_pin(frame);
    lapic_write(LAPIC_EOI, 0);
}

static void on_message(struct frame *frame) {
    messages[frame->vector - MESSAGE_VECTOR]++;
    set(current, INTERRUPT_STATUS, ~0u);
    lapic_write(LAPIC_EOI, 0);
}

static void map(uint64_t address, uint64_t size) {
    for (uint64_t at = 0; at < size; at += PAGE)
        paging_map(address + at, address + at, PAGE_WRITE | PAGE_UNCACHED);
}

static void find_cards(void) {
    for (struct pci p = {0, -1}; pci_next(&p);) {
        uint32_t id = pci_read(p, PCI_ID, 4);
        printf("pci 00:%02x.%d: %04x:%04x class %06x irq %u\n", p.device, p.function, id & 0xFFFF, id >> 16,
               pci_read(p, PCI_CLASS, 4) >> 8, pci_read(p, PCI_LINE, 1));
        if (id == (DEVICE << 16 | VENDOR) && count < MOST) {
            struct card *c = &cards[count++];
            c->at = p;
            pci_write(p, PCI_COMMAND, 2, PCI_MEMORY | PCI_MASTER);
            c->registers = (void *)pci_bar(p, 0);
            c->buffer = (void *)pci_bar(p, 1);
            map(pci_bar(p, 0), PAGE);
            map(pci_bar(p, 1), BUFFER);
        }
    }
}

/* One computation, and the interrupt at its end. */
static void compute(struct card *c) {
    int before = pins;
    current = c;
    set(c, INTERRUPT_ENABLE, BY_FACTORIAL);
    set(c, NUMBER, 12);
    wait_until(pins != before);
    set(c, INTERRUPT_ENABLE, 0);
    if (pins != before + 1 || *(volatile uint64_t *)(c->registers + FACTORIAL) != 479001600)
        fail(c, "computes wrong");
}

static void through_pics(void) {
    for (int i = 0; i < count; i++) {
        int irq = pci_read(cards[i].at, PCI_LINE, 1);
        set_irq_handler(irq, on_pin);
        pic_unmask(irq);
        compute(&cards[i]);
    }
    printf("pci: %d cards interrupt through the PICs\n", count);
}

/* The IOAPIC's input for a card's pin, as the MP table says (MP specification 1.4, 4.3.4 and appendix D.3). */
static int input_of(struct card *c) {
    uint8_t *entry = (uint8_t *)mp_table + 44;
    int entries = *(uint16_t *)((uint8_t *)mp_table + 34);
    int source = c->at.device << 2 | (int)(pci_read(c->at, PCI_PIN, 1) - 1);
    for (; entries--; entry += *entry ? 8 : 20)
        if (entry[0] == 3 && entry[4] == 0 && entry[5] == source)
            return entry[7];
    fail(c, "is not in the MP table");
}

static void ioapic_write(uint8_t at, uint32_t value) {
    *(volatile uint32_t *)IOAPIC = at;
    *(volatile uint32_t *)(IOAPIC + 0x10) = value;
}

static void through_ioapic(void) {
    enum { ACTIVE_LOW = 1 << 13, LEVEL = 1 << 15 };
    outb(0x21, 0xFF);
    outb(0xA1, 0xFF);
    for (int i = 0; i < count; i++) {
        int input = input_of(&cards[i]);
        set_handler(PIN_VECTOR + input % 4, on_ioapic);
        ioapic_write(0x11 + 2 * input, lapic_read(LAPIC_ID));
        ioapic_write(0x10 + 2 * input, LEVEL | ACTIVE_LOW | (PIN_VECTOR + input % 4));
        compute(&cards[i]);
    }
    printf("pci: %d cards interrupt through the IOAPIC\n", count);
}

static void by_messages(struct card *c) {
    unsigned msi = pci_capability(c->at, PCI_MSI), msix = pci_capability(c->at, PCI_MSIX);
    if (!msi || !msix)
        fail(c, "has no messages");
    current = c;
    for (int vector = 0; vector < 4; vector++)
        set_handler(MESSAGE_VECTOR + vector, on_message);
    set(c, INTERRUPT_ENABLE, ~0u);
    pci_write(c->at, msi + 4, 4, 0xFEE00000);
    pci_write(c->at, msi + 8, 4, 0);
    pci_write(c->at, msi + 12, 2, MESSAGE_VECTOR);
    pci_write(c->at, msi + 2, 2, 1 | 2 << 4); /* on, four vectors */
    set(c, INTERRUPT_RAISE, BY_SOFTWARE);
    wait_until(messages[2] == 1);
    pci_write(c->at, msi + 2, 2, 0);
    printf("pci: MSI\n");

    uint64_t table = pci_bar(c->at, pci_read(c->at, msix + 4, 4) & 7);
    map(table, PAGE);
    volatile uint32_t *entry = (void *)(table + 16);
    entry[0] = 0xFEE00000;
    entry[1] = 0;
    entry[2] = MESSAGE_VECTOR + 1;
    entry[3] = 0; /* not masked */
    pci_write(c->at, msix + 2, 2, 1 << 15);
    set(c, INTERRUPT_RAISE, BY_DMA);
    wait_until(messages[1] == 1);
    pci_write(c->at, msix + 2, 2, 0);
    set(c, INTERRUPT_ENABLE, 0);
    printf("pci: MSI-X\n");
}

static void transfer(struct card *c, void *address, uint32_t command) {
    *(volatile uint64_t *)(c->registers + DMA_ADDRESS) = (uint64_t)address;
    set(c, DMA_LENGTH, BUFFER);
    set(c, DMA_OFFSET, 0);
    set(c, DMA_COMMAND, command);
}

static void by_dma(struct card *c) {
    for (int i = 0; i < BUFFER; i++)
        data[i] = i * 7 + (i >> 8);
    transfer(c, data, TO_DEVICE);
    transfer(c, back, TO_RAM);
    if (get(c, STATUS) & DMA_FAILED || memcmp(data, back, BUFFER) || c->buffer[300] != data[300])
        fail(c, "moves data wrong");
    transfer(c, (void *)~0xFFFull, TO_DEVICE);
    if (!(get(c, STATUS) & DMA_FAILED))
        fail(c, "finds RAM at the end of the address space");
    pci_write(c->at, PCI_COMMAND, 2, PCI_MEMORY);
    transfer(c, data, TO_DEVICE);
    if (!(get(c, STATUS) & DMA_FAILED))
        fail(c, "moves data though it is no bus master");
    pci_write(c->at, PCI_COMMAND, 2, PCI_MEMORY | PCI_MASTER);
    transfer(c, data, TO_DEVICE);
    if (get(c, STATUS) & DMA_FAILED)
        fail(c, "does not recover");
    printf("pci: DMA\n");
}

void main(void) {
    serial_init();
    uint64_t ebda = *(uint16_t *)ebda_segment * 16; /* page 0 is soon gone */
    mp_table = *(uint32_t *)(ebda + 0x10 + 4);
    interrupts_init();
    paging_identity();
    map(IOAPIC, PAGE);
    lapic_init();
    sti();
    find_cards();
    if (!count) {
        printf("pci: no teaching card\n");
        poweroff();
    }
    through_pics();
    through_ioapic();
    by_messages(&cards[0]);
    by_dma(&cards[0]);
    set(&cards[0], NUMBER, 21);
    if (!(get(&cards[0], STATUS) & OVERFLOW))
        fail(&cards[0], "has no overflow");
    printf("pci: ok\n");
    poweroff();
}
