/* The pair of 8259A interrupt controllers of a PC (Intel 8259A data sheet; the slave is at the master's input 2). */
#include "lib.h"

enum { MASTER = 0x20, SLAVE = 0xA0 }; /* command ports; the data port is the next one */
enum { EOI = 0x20, READ_ISR = 0x0B };

static uint16_t mask = 0xFFFF & ~(1 << 2); /* a 1 keeps an IRQ off; input 2 is the slave */

static void write_mask(void) {
    outb(MASTER + 1, mask);
    outb(SLAVE + 1, mask >> 8);
}

void pic_init(void) {
    outb(MASTER, 0x11); /* ICW1: initialise, edge-triggered, cascaded, ICW4 follows */
    outb(SLAVE, 0x11);
    outb(MASTER + 1, IRQ0); /* ICW2: first vector. The BIOS's, 8, would lie among the exceptions */
    outb(SLAVE + 1, IRQ0 + 8);
    outb(MASTER + 1, 1 << 2); /* ICW3: where the other one is */
    outb(SLAVE + 1, 2);
    outb(MASTER + 1, 0x01); /* ICW4: 8086 mode, the end of interrupt is told by us */
    outb(SLAVE + 1, 0x01);
    write_mask();
}

void pic_unmask(int irq) {
    mask &= ~(1 << irq);
    write_mask();
}

/* A line that fell again before the CPU asked which it was is reported as input 7, without its in-service bit. */
bool pic_spurious(int irq) {
    if (irq != 7 && irq != 15)
        return false;
    uint16_t port = irq == 7 ? MASTER : SLAVE;
    outb(port, READ_ISR);
    if (inb(port) & 0x80)
        return false;
    if (irq == 15)
        outb(MASTER, EOI); /* the master has served its input 2 in earnest */
    return true;
}

void pic_eoi(int irq) {
    if (irq >= 8)
        outb(SLAVE, EOI);
    outb(MASTER, EOI);
}
