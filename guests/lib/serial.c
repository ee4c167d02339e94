/* COM1: a 16550A UART (National Semiconductor PC16550D data sheet, section 8: registers). */
#include "lib.h"

enum { COM1 = 0x3F8, COM1_IRQ = 4 };
enum { DATA = COM1, IER = COM1 + 1, FCR = COM1 + 2, LCR = COM1 + 3, MCR = COM1 + 4, LSR = COM1 + 5 };
enum { LSR_DATA_READY = 0x01, LSR_THR_EMPTY = 0x20 };
enum { IER_RECEIVED = 0x01, FIFO_SIZE = 16 };

/* Characters between the interrupt handler, which alone moves `head`, and serial_line(), which alone moves `tail`.
 * Empty: they are equal; full: one place is left. */
static char ring[1024];
static volatile unsigned head, tail;
static volatile bool throttled;

static unsigned after(unsigned i) { return (i + 1) % sizeof ring; }

/* False: there is no room. */
static bool store(void) {
    if (after(head) == tail)
        return false;
    ring[head] = inb(DATA);
    head = after(head);
    return true;
}

void serial_init(void) {
    outb(IER, 0);
    while (inb(LSR) & LSR_DATA_READY) /* typed ahead: switching the FIFOs on would lose it */
        if (!store())
            break;
    outb(LCR, 0x80); /* DLAB: the next two ports are the divisor of 115200 baud */
    outb(DATA, 1);
    outb(IER, 0);
    outb(LCR, 0x03); /* 8 data bits, no parity, 1 stop bit */
    outb(FCR, 0x07); /* FIFOs on and emptied, interrupt at the first character */
    outb(MCR, 0x0B); /* DTR, RTS, and OUT2, which on a PC connects the UART to its IRQ line */
}

void serial_write(const char *s, size_t size) {
    while (size) {
        while (!(inb(LSR) & LSR_THR_EMPTY))
            pause();
        /* With the FIFO on this bit means that all of it is free: one look at the status serves for 16 characters. */
        for (int room = FIFO_SIZE; room && size; room--, size--)
            outb(DATA, *s++);
    }
}

static void on_interrupt(struct frame *frame) {
    (void)frame;
    while (inb(LSR) & LSR_DATA_READY) {
        if (!store()) {
            /* Leave the rest in the UART, and its interrupt off, until the reader has caught up. */
            throttled = true;
            outb(IER, 0);
            return;
        }
    }
}

void serial_receive_on(void) {
    set_irq_handler(COM1_IRQ, on_interrupt);
    pic_unmask(COM1_IRQ);
    outb(IER, IER_RECEIVED);
}

static bool take(char *c) {
    if (tail == head) {
        if (throttled) {
            throttled = false;
            outb(IER, IER_RECEIVED); /* interrupts at once if a character waits */
        }
        return false;
    }
    *c = ring[tail];
    tail = after(tail);
    return true;
}

bool serial_line(char *line, size_t size) {
    static char text[256];
    static size_t length;
    static char last;
    char c;
    while (take(&c)) {
        bool second_half = c == '\n' && last == '\r'; /* a line may end in CR, LF or both */
        last = c;
        if (second_half)
            continue;
        if (c == '\r' || c == '\n') {
            if (length > size - 1)
                length = size - 1;
            memcpy(line, text, length);
            line[length] = '\0';
            length = 0;
            return true;
        }
        if (c == '\b' || c == 0x7F)
            length -= length > 0;
        else if (length < sizeof text)
            text[length++] = c;
    }
    return false;
}
