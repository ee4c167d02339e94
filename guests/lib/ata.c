/* ATA disks, PIO data transfers with interrupts (ATA/ATAPI-6, chapters 7 to 9; ports of the ISA channels). */
#include "lib.h"

enum { DATA = 0, ERROR = 1, COUNT = 2, LBA_LOW = 3, LBA_MIDDLE = 4, LBA_HIGH = 5, DEVICE = 6, STATUS = 7, COMMAND = 7 };
enum { ERR = 0x01, DRQ = 0x08, DF_BIT = 0x20, BSY = 0x80 }; /* of the status */
enum { DEVICE_LBA = 0xE0, DEVICE_1 = 0x10 };
enum { IDENTIFY = 0xEC, SET_MULTIPLE_MODE = 0xC6, FLUSH = 0xE7, FLUSH_EXT = 0xEA };
enum { SECTOR = 512, WORDS = SECTOR / 2, TIMEOUT = 5 /* s */ };

static struct channel {
    uint16_t base, control; /* control: reading it gives the status without acknowledging the interrupt */
    uint8_t irq;
    volatile bool interrupted;
    volatile uint8_t status; /* at the last interrupt */
} channels[2] = {{.base = 0x1F0, .control = 0x3F6, .irq = 14}, {.base = 0x170, .control = 0x376, .irq = 15}};

static void on_interrupt(struct channel *c) {
    c->status = inb(c->base + STATUS); /* which also makes the drive lower its line */
    c->interrupted = true;
}

static void on_primary(struct frame *frame) { (void)frame, on_interrupt(&channels[0]); }
static void on_secondary(struct frame *frame) { (void)frame, on_interrupt(&channels[1]); }

void ata_init(void) {
    set_irq_handler(channels[0].irq, on_primary);
    set_irq_handler(channels[1].irq, on_secondary);
    for (int i = 0; i < 2; i++) {
        outb(channels[i].control, 0); /* nIEN = 0: the drives may interrupt */
        pic_unmask(channels[i].irq);
    }
}

/* Waits for the interrupt; then the drive is done (`want` 0) or has or wants a block of data (`want` DRQ). */
static const char *wait_interrupt(struct channel *c, uint8_t want) {
    uint64_t end = pit_ticks + TIMEOUT * 100;
    wait_until(c->interrupted || pit_ticks > end);
    if (!c->interrupted)
        return "no interrupt";
    if (c->status & BSY)
        return "interrupt while busy";
    if (c->status & (ERR | DF_BIT))
        return inb(c->base + ERROR) & 0x04 ? "command aborted" : "drive reports an error";
    if ((c->status & DRQ) != want)
        return want ? "no data requested" : "data requested after the end";
    return NULL;
}

/* The first block of a write is the only one that no interrupt announces. */
static const char *wait_drq(struct channel *c) {
    for (int polls = 0; polls < 10000; polls++) {
        uint8_t status = inb(c->control);
        if (status & BSY)
            continue;
        if (status & (ERR | DF_BIT))
            return "write refused";
        if (status & DRQ)
            return NULL;
    }
    return "no data requested";
}

/* A drive needs 400 ns to show its status after it was selected; a port access takes at least 100 ns. */
static void select(struct channel *c, uint8_t device) {
    outb(c->base + DEVICE, device);
    for (int i = 0; i < 4; i++)
        inb(c->control);
}

static void command(struct channel *c, uint8_t code) {
    c->interrupted = false;
    outb(c->base + COMMAND, code);
}

static uint8_t device_bits(const struct ata_drive *d) { return DEVICE_LBA | (d->unit ? DEVICE_1 : 0); }

static void copy_model(char *to, const uint16_t *words) {
    for (int i = 0; i < 20; i++) { /* in each word the first character is the high byte */
        to[2 * i] = words[i] >> 8;
        to[2 * i + 1] = words[i];
    }
    size_t end = 40;
    while (end && to[end - 1] == ' ')
        end--;
    to[end] = '\0';
}

enum ata_kind ata_identify(int channel, int unit, struct ata_drive *d) {
    struct channel *c = &channels[channel];
    uint16_t id[WORDS];
    *d = (struct ata_drive){.channel = channel, .unit = unit};
    select(c, device_bits(d));
    /* A drive has registers to write to; without a drive the bus floats (all ones) or drive 0 answers with zeros. */
    outb(c->base + LBA_LOW, 0x5A);
    outb(c->base + COUNT, 0xA5);
    uint8_t status = inb(c->control);
    if (status == 0xFF || status == 0 || inb(c->base + LBA_LOW) != 0x5A || inb(c->base + COUNT) != 0xA5) {
        /* After a reset a packet device shows no status but its signature. */
        bool signature = inb(c->base + LBA_MIDDLE) == 0x14 && inb(c->base + LBA_HIGH) == 0xEB;
        return status == 0 && signature ? ATA_PACKET : ATA_NONE;
    }
    command(c, IDENTIFY);
    if (wait_interrupt(c, DRQ)) {
        bool signature = inb(c->base + LBA_MIDDLE) == 0x14 && inb(c->base + LBA_HIGH) == 0xEB;
        return signature ? ATA_PACKET : ATA_NONE;
    }
    insw(c->base + DATA, id, WORDS);
    copy_model(d->model, &id[27]);
    d->sectors = id[60] | (uint32_t)id[61] << 16;
    d->lba48 = id[83] & 1 << 10;
    if (d->lba48)
        d->sectors = id[100] | (uint32_t)id[101] << 16 | (uint64_t)id[102] << 32;
    d->multiple = id[47] & 0xFF;
    if (d->multiple) {
        outb(c->base + COUNT, d->multiple);
        command(c, SET_MULTIPLE_MODE);
        if (wait_interrupt(c, 0))
            d->multiple = 0;
    }
    return ATA_DISK;
}

const char *ata_transfer(const struct ata_drive *d, uint8_t code, uint64_t lba, uint32_t count, void *buffer) {
    struct channel *c = &channels[d->channel];
    bool ext = code == ATA_READ_SECTORS_EXT || code == ATA_READ_MULTIPLE_EXT || code == ATA_WRITE_SECTORS_EXT ||
               code == ATA_WRITE_MULTIPLE_EXT;
    bool multiple = code == ATA_READ_MULTIPLE || code == ATA_READ_MULTIPLE_EXT || code == ATA_WRITE_MULTIPLE ||
                    code == ATA_WRITE_MULTIPLE_EXT;
    bool write = code == ATA_WRITE_SECTORS || code == ATA_WRITE_SECTORS_EXT || code == ATA_WRITE_MULTIPLE ||
                 code == ATA_WRITE_MULTIPLE_EXT;
    uint32_t block = multiple ? d->multiple : 1; /* sectors between two interrupts */
    uint8_t *data = buffer;
    const char *error;

    select(c, device_bits(d) | (ext ? 0 : lba >> 24 & 0x0F));
    if (ext) { /* each register is a FIFO of two: the high half goes first */
        outb(c->base + COUNT, 0);
        outb(c->base + LBA_LOW, lba >> 24);
        outb(c->base + LBA_MIDDLE, lba >> 32);
        outb(c->base + LBA_HIGH, lba >> 40);
    }
    outb(c->base + COUNT, count);
    outb(c->base + LBA_LOW, lba);
    outb(c->base + LBA_MIDDLE, lba >> 8);
    outb(c->base + LBA_HIGH, lba >> 16);
    command(c, code);

    if (write && (error = wait_drq(c)))
        return error;
    while (count) {
        uint32_t sectors = count < block ? count : block;
        if (!write && (error = wait_interrupt(c, DRQ)))
            return error;
        c->interrupted = false; /* before the data: its last word may bring the next interrupt at once */
        if (write)
            outsw(c->base + DATA, data, sectors * WORDS);
        else
            insw(c->base + DATA, data, sectors * WORDS);
        data += sectors * SECTOR;
        count -= sectors;
        if (write && (error = wait_interrupt(c, count ? DRQ : 0)))
            return error;
    }
    return NULL;
}

const char *ata_flush(const struct ata_drive *d) {
    struct channel *c = &channels[d->channel];
    select(c, device_bits(d));
    command(c, d->lba48 ? FLUSH_EXT : FLUSH);
    return wait_interrupt(c, 0);
}
