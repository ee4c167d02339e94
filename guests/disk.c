/* Disks: lists the drives of both ATA channels, then writes, flushes and reads back sectors of the first disk in every
 * way PIO offers. It overwrites sectors 8 to 23! */
#include "lib/lib.h"

enum { FIRST = 8, EACH = 4, SECTOR = 512 };

/* The four ways to write; each range is read back by the next one's way to read. Only 48-bit commands reach all of
 * a large disk; the MULTIPLE commands interrupt once a block instead of once a sector. */
static const struct way {
    const char *name;
    uint8_t write, read;
    bool multiple, lba48;
} ways[] = {
    {"SECTORS, LBA28", ATA_WRITE_SECTORS, ATA_READ_SECTORS, false, false},
    {"MULTIPLE, LBA28", ATA_WRITE_MULTIPLE, ATA_READ_MULTIPLE, true, false},
    {"SECTORS, LBA48", ATA_WRITE_SECTORS_EXT, ATA_READ_SECTORS_EXT, false, true},
    {"MULTIPLE, LBA48", ATA_WRITE_MULTIPLE_EXT, ATA_READ_MULTIPLE_EXT, true, true},
};
enum { WAYS = sizeof ways / sizeof *ways };

static uint32_t pattern[EACH * SECTOR / 4], back[EACH * SECTOR / 4];

/* No two words on the disk are alike: a sector that lands in the wrong place is noticed. */
static void make_pattern(uint64_t lba) {
    for (uint32_t i = 0; i < EACH * SECTOR / 4; i++)
        pattern[i] = (uint32_t)(lba * SECTOR / 4 + i) * 2654435761u;
}

static bool usable(const struct ata_drive *d, const struct way *w) {
    return (!w->multiple || d->multiple) && (!w->lba48 || d->lba48);
}

static _Noreturn void fail(const char *doing, const char *way, const char *error) {
    printf("disk: FAILED at %s (%s): %s\n", doing, way, error);
    exit_guest(1);
}

static void test(const struct ata_drive *d) {
    const char *error;
    uint32_t checksum = 0;
    if (d->sectors < FIRST + WAYS * EACH)
        fail("start", d->model, "the disk has too few sectors");
    for (int i = 0; i < WAYS; i++) {
        uint64_t lba = FIRST + i * EACH;
        const struct way *w = usable(d, &ways[i]) ? &ways[i] : &ways[0];
        make_pattern(lba);
        if ((error = ata_transfer(d, w->write, lba, EACH, pattern)))
            fail("write", w->name, error);
        printf("wrote sectors %lu to %lu (%s)\n", lba, lba + EACH - 1, w->name);
    }
    if ((error = ata_flush(d)))
        fail("flush", "FLUSH CACHE", error);
    printf("flushed\n");
    for (int i = 0; i < WAYS; i++) {
        uint64_t lba = FIRST + i * EACH;
        const struct way *w = &ways[(i + 1) % WAYS];
        w = usable(d, w) ? w : &ways[0];
        memset(back, 0, sizeof back);
        if ((error = ata_transfer(d, w->read, lba, EACH, back)))
            fail("read", w->name, error);
        make_pattern(lba);
        for (uint32_t word = 0; word < EACH * SECTOR / 4; word++) {
            checksum = (checksum << 1 | checksum >> 31) + back[word];
            if (back[word] != pattern[word]) {
                printf("sector %lu, byte %u: wrote %08x, read %08x\n", lba + word * 4 / SECTOR, word * 4 % SECTOR,
                       pattern[word], back[word]);
                fail("verify", w->name, "the data differ");
            }
        }
        printf("read sectors %lu to %lu (%s)\n", lba, lba + EACH - 1, w->name);
    }
    printf("checksum %08x\n", checksum);
    printf("disk: ok\n");
}

void main(void) {
    struct ata_drive drive, first;
    bool found = false;
    serial_init();
    interrupts_init();
    pit_start(100);
    ata_init();
    sti();
    for (int i = 0; i < 4; i++) {
        const char *channel = i / 2 ? "secondary" : "primary", *unit = i % 2 ? "slave" : "master";
        switch (ata_identify(i / 2, i % 2, &drive)) {
        case ATA_NONE:
            printf("%s %s: nothing\n", channel, unit);
            break;
        case ATA_PACKET:
            printf("%s %s: a packet device\n", channel, unit);
            break;
        case ATA_DISK:
            printf("%s %s: \"%s\", %lu sectors\n", channel, unit, drive.model, drive.sectors);
            if (!found)
                first = drive;
            found = true;
        }
    }
    if (found)
        test(&first);
    else
        printf("disk: no disk\n");
}
