/* The NE2000: a DP8390D network controller and 16 KiB of its own memory behind 32 ports (National Semiconductor
 * DP8390D data sheet; section numbers below are the data sheet's headings). */
#include "lib.h"

enum { BASE = 0x300, IRQ = 9 };
enum { CR = BASE, DATA = BASE + 0x10, RESET = BASE + 0x1F };
enum { PSTART = BASE + 1, PSTOP = BASE + 2, BNRY = BASE + 3, TSR = BASE + 4, TPSR = BASE + 4, TBCR0 = BASE + 5 };
enum { TBCR1 = BASE + 6, ISR = BASE + 7, RSAR0 = BASE + 8, RSAR1 = BASE + 9, RBCR0 = BASE + 10, RBCR1 = BASE + 11 };
enum { RCR = BASE + 12, TCR = BASE + 13, DCR = BASE + 14, IMR = BASE + 15 };
enum { PAR0 = BASE + 1, CURR = BASE + 7, MAR0 = BASE + 8 }; /* page 1 */

enum { STOP = 0x01, START = 0x02, TXP = 0x04, READ = 0x08, WRITE = 0x10, ABORT = 0x20, PAGE1 = 0x40 }; /* of CR */
enum { PRX = 0x01, PTX = 0x02, RXE = 0x04, TXE = 0x08, OVW = 0x10, CNT = 0x20, RDC = 0x40, RST = 0x80 }; /* of ISR */
enum { HANDLED = PRX | PTX | RXE | TXE | OVW | CNT };
enum { LOOPBACK = 0x02 }; /* of TCR: frames stay in the chip */
enum { WORDS_FIFO_NORMAL = 0x49 }; /* DCR: 16-bit transfers, little-endian, no loopback, FIFO threshold 8 bytes */

/* The card's memory, in pages of 256 bytes: one frame to send (6 pages hold 1536 bytes), the rest a ring. */
enum { TX_PAGE = 0x40, RING_START = 0x46, RING_STOP = 0x80 };

struct ne2000_stats ne2000_stats;
volatile bool ne2000_pending;
static uint8_t next_page; /* of the ring: where the next frame to be read begins */
static bool interrupts;

/* "Remote DMA": moves data between the card's memory and the data port, in words: lengths are even. */
static void remote_dma(uint16_t address, uint16_t size, uint8_t direction) {
    outb(CR, ABORT | START);
    outb(ISR, RDC);
    outb(RBCR0, size);
    outb(RBCR1, size >> 8);
    outb(RSAR0, address);
    outb(RSAR1, address >> 8);
    outb(CR, direction | START);
}

static void read_memory(uint16_t address, void *to, uint16_t size) {
    remote_dma(address, size, READ);
    insw(DATA, to, size / 2);
}

bool ne2000_init(uint8_t mac[6]) {
    uint16_t prom[16]; /* a word holds one byte of it, twice */
    outb(RESET, inb(RESET)); /* reading begins a reset, writing ends it */
    for (int polls = 0; !(inb(ISR) & RST); polls++)
        if (polls == 1000)
            return false;
    outb(CR, ABORT | STOP);
    if (inb(CR) != (ABORT | STOP)) /* a floating bus reads all ones, which looked like a reset */
        return false;
    outb(DCR, WORDS_FIFO_NORMAL);
    outb(IMR, 0);
    outb(RCR, 0x20); /* monitor mode: nothing is stored */
    outb(TCR, LOOPBACK);
    read_memory(0, prom, sizeof prom);
    for (int i = 0; i < 6; i++)
        mac[i] = prom[i];
    return (prom[14] & 0xFF) == 'W' && (prom[15] & 0xFF) == 'W'; /* 'W': the card takes word transfers */
}

/* "Initialization sequence" */
void ne2000_start(const uint8_t mac[6], uint8_t receive_mode) {
    outb(CR, ABORT | STOP);
    outb(DCR, WORDS_FIFO_NORMAL);
    outb(RBCR0, 0);
    outb(RBCR1, 0);
    outb(RCR, receive_mode);
    outb(TCR, LOOPBACK);
    outb(PSTART, RING_START);
    outb(PSTOP, RING_STOP);
    outb(BNRY, RING_STOP - 1); /* the last page that is free to the chip; see release() */
    outb(ISR, 0xFF);
    outb(IMR, 0);
    outb(CR, PAGE1 | ABORT | STOP);
    for (int i = 0; i < 6; i++)
        outb(PAR0 + i, mac[i]);
    for (int i = 0; i < 8; i++)
        outb(MAR0 + i, 0); /* no multicast */
    outb(CURR, RING_START);
    outb(CR, ABORT | START);
    outb(TCR, 0);
    next_page = RING_START;
}

/* The handler only takes note and silences the chip. The work is done outside of it, by ne2000_service(), so that
 * nothing ever interrupts a remote DMA to start another. */
static void on_interrupt(struct frame *frame) {
    (void)frame;
    outb(IMR, 0);
    ne2000_pending = true;
}

void ne2000_interrupts_on(void) {
    set_irq_handler(IRQ, on_interrupt);
    pic_unmask(IRQ);
    interrupts = true;
    outb(IMR, HANDLED);
}

/* BNRY stays one page behind what is read next: the chip takes BNRY = CURR for a full ring. */
static void release(uint8_t next) {
    next_page = next;
    outb(BNRY, next == RING_START ? RING_STOP - 1 : next - 1);
}

static uint8_t current_page(void) {
    outb(CR, PAGE1 | ABORT | START);
    uint8_t page = inb(CURR);
    outb(CR, ABORT | START);
    return page;
}

static uint8_t frame[FRAME_MAX + 4];

/* "Removing packets from the ring": takes the next one into `frame` and returns its size; 0 if there is none. */
static size_t take(void) {
    struct {
        uint8_t status, next;
        uint16_t size; /* these four bytes and the frame */
    } header;
    uint8_t end = current_page();
    if (next_page == end)
        return 0;
    read_memory(next_page << 8, &header, sizeof header);
    size_t size = header.size - sizeof header;
    if (header.next < RING_START || header.next >= RING_STOP || size < FRAME_MIN || size > sizeof frame) {
        ne2000_stats.errors++; /* the ring cannot be followed any further: give up what is in it */
        release(end);
        return 0;
    }
    /* The frame follows its header. At the ring's end the chip goes on at its start by itself. */
    read_memory((next_page << 8) + sizeof header, frame, (size + 1) & ~1);
    release(header.next);
    ne2000_stats.received++;
    return size;
}

/* "Overwrite warning": after an overflow room must be made with the chip cut off from the wire, in this order. */
static void recover(void (*receive)(uint8_t *frame, size_t size)) {
    bool transmitting = inb(CR) & TXP;
    outb(CR, ABORT | STOP);
    pit_delay_us(1600); /* a frame that is being received takes no longer than this */
    outb(RBCR0, 0);
    outb(RBCR1, 0);
    bool resend = transmitting && !(inb(ISR) & (PTX | TXE));
    outb(TCR, LOOPBACK);
    outb(CR, ABORT | START);
    size_t size = take();
    outb(ISR, OVW);
    outb(TCR, 0);
    if (resend)
        outb(CR, ABORT | TXP | START);
    ne2000_stats.overruns++;
    if (size)
        receive(frame, size); /* only now: it may send */
}

void ne2000_service(void (*receive)(uint8_t *frame, size_t size)) {
    uint8_t status;
    size_t size;
    ne2000_pending = false;
    while ((status = inb(ISR) & HANDLED)) {
        if (status & OVW)
            recover(receive);
        outb(ISR, status & ~OVW); /* before the ring is read: what comes meanwhile sets its bit anew */
        if (status & (RXE | TXE))
            ne2000_stats.errors++;
        while ((size = take()))
            receive(frame, size);
    }
    if (interrupts)
        outb(IMR, HANDLED);
}

static bool transmitter_idle(void) {
    for (int polls = 0; inb(CR) & TXP; polls++)
        if (polls == 10000)
            return false;
    return true;
}

bool ne2000_send(const uint8_t *frame, size_t size) {
    static uint8_t padded[FRAME_MAX + 1];
    if (size > FRAME_MAX || !transmitter_idle())
        return false;
    memcpy(padded, frame, size);
    for (; size < FRAME_MIN || size % 2; size++)
        padded[size] = 0; /* Ethernet's least size; and transfers are of whole words */
    remote_dma(TX_PAGE << 8, size, WRITE);
    outsw(DATA, padded, size / 2);
    outb(TPSR, TX_PAGE);
    outb(TBCR0, size);
    outb(TBCR1, size >> 8);
    outb(CR, ABORT | TXP | START);
    ne2000_stats.sent++;
    return true;
}
