/* A tour of the machine: CPU, memory, disk and network, a line each, on the serial port.
 * It writes to sector 1 of the first disk, and expects the network to send back what it is sent. */
#include "lib/lib.h"

#define BOLD "\033[1m"
#define DIM "\033[2m"
#define RED "\033[31m"
#define GREEN "\033[32m"
#define YELLOW "\033[33m"
#define PLAIN "\033[0m"

enum { DETAIL_WIDTH = 58, MIB = 1 << 20 };

enum result { OK, FAILED, ABSENT };
static int passed, failed, absent;

/* A row is its name, then whatever is printed, then its result at the right. */
static void row(const char *name) { printf("  " BOLD "%-9s" PLAIN, name); }

static void end_row(int printed, enum result result) {
    static const char *const texts[] = {GREEN "ok" PLAIN, RED "FAILED" PLAIN, YELLOW "none" PLAIN};
    for (; printed < DETAIL_WIDTH; printed++)
        printf(" ");
    printf("[%s]\n", texts[result]);
    passed += result == OK;
    failed += result == FAILED;
    absent += result == ABSENT;
}

static void rule(void) {
    printf(DIM "  ------------------------------------------------------------------------" PLAIN "\n");
}

/* CPUID gives text as registers: four characters each. */
static void cpu(void) {
    char vendor[13] = {0}, hypervisor[13] = {0};
    struct cpuid leaf = cpuid(0, 0);
    memcpy(vendor, &leaf.ebx, 4);
    memcpy(vendor + 4, &leaf.edx, 4);
    memcpy(vendor + 8, &leaf.ecx, 4);
    if (cpuid(1, 0).ecx & 1u << 31) { /* "hypervisor present" */
        leaf = cpuid(0x40000000, 0);
        memcpy(hypervisor, &leaf.ebx, 12);
    }
    leaf = cpuid(1, 0);
    uint32_t family = leaf.eax >> 8 & 15, model = leaf.eax >> 4 & 15;
    if (family == 15 || family == 6)
        model |= leaf.eax >> 12 & 0xF0;
    if (family == 15)
        family += leaf.eax >> 20 & 0xFF;
    row("cpu");
    int n = printf("%s, family %u, model %u", vendor, family, model);
    if (*hypervisor)
        n += printf(", on %s", hypervisor);
    end_row(n, OK);
}

/* Where there is no RAM, nothing stays written. */
static bool is_ram(uint64_t address) {
    volatile uint64_t *p = (volatile uint64_t *)address;
    uint64_t saved = *p;
    *p = 0x5555AAAA12345678;
    bool kept = *p == 0x5555AAAA12345678;
    *p = saved;
    return kept;
}

/* Writes to some words its own address first and reads them all afterwards: an address line that is stuck shows. */
static void memory(void) {
    uint64_t end = 2 * MIB, wrong = 0, words = 0;
    enum { LIMIT = 1024 * MIB, STEP = 64 * 1024 };
    while (end < LIMIT && is_ram(end))
        end += 2 * MIB;
    for (uint64_t address = 2 * MIB; address < end; address += STEP)
        *(volatile uint64_t *)address = ~address;
    for (uint64_t address = 2 * MIB; address < end; address += STEP, words++)
        wrong += *(volatile uint64_t *)address != ~address;
    row("memory");
    end_row(printf("%lu MiB, %lu words written, %lu wrong", end / MIB, words, wrong), wrong ? FAILED : OK);
}

static const char *use_disk(const struct ata_drive *d) {
    static char sector[512], back[512];
    static const char message[] = "A guest kernel was here.";
    const char *error;
    if ((error = ata_transfer(d, ATA_READ_SECTORS, 0, 1, sector)))
        return error;
    memset(sector, 0, sizeof sector);
    memcpy(sector, message, sizeof message);
    if ((error = ata_transfer(d, ATA_WRITE_SECTORS, 1, 1, sector)) || (error = ata_flush(d)) ||
        (error = ata_transfer(d, ATA_READ_SECTORS, 1, 1, back)))
        return error;
    return memcmp(sector, back, sizeof sector) ? "not what was written" : NULL;
}

static void disk(void) {
    struct ata_drive d;
    ata_init();
    row("disk");
    if (ata_identify(0, 0, &d) != ATA_DISK || d.sectors < 2) {
        end_row(printf("no disk at the primary channel"), ABSENT);
        return;
    }
    const char *error = use_disk(&d);
    int n = printf("%s, %lu KiB: ", d.model, d.sectors / 2);
    n += error ? printf("%s", error) : printf("sector 1 written, read back");
    end_row(n, error ? FAILED : OK);
}

static struct {
    uint8_t to[6], from[6], type[2];
    char text[50];
} frame = {.type = {0x88, 0xB5} /* for experiments: IEEE 802, local */, .text = "Is anybody there?"};
static bool came_back;

static void receive(uint8_t *received, size_t size) {
    came_back |= size >= sizeof frame && memcmp(received, &frame, sizeof frame) == 0;
}

static void network(void) {
    row("network");
    if (!ne2000_init(frame.from)) {
        end_row(printf("no NE2000 at port 0x300"), ABSENT);
        return;
    }
    memcpy(frame.to, frame.from, 6);
    ne2000_start(frame.from, NE2000_BROADCAST);
    ne2000_interrupts_on();
    bool sent = ne2000_send((const uint8_t *)&frame, sizeof frame);
    for (uint64_t end = pit_ticks + 100; sent && !came_back && pit_ticks < end;) {
        wait_until(ne2000_pending || pit_ticks >= end);
        if (ne2000_pending)
            ne2000_service(receive);
    }
    const uint8_t *m = frame.from;
    int n = printf("NE2000 %02x:%02x:%02x:%02x:%02x:%02x: ", m[0], m[1], m[2], m[3], m[4], m[5]);
    n += came_back ? printf("%lu bytes sent, came back", sizeof frame)
         : sent    ? printf("sent; nobody answered")
                   : printf("cannot send");
    end_row(n, came_back ? OK : sent ? ABSENT : FAILED);
}

void main(void) {
    serial_init();
    interrupts_init();
    paging_identity();
    pit_start(100);
    sti();
    printf("\n  " BOLD "Hello!" PLAIN " This is a kernel of its own, in 64-bit mode on a bare machine.\n");
    rule();
    cpu();
    memory();
    disk();
    network();
    rule();
    printf("  %d ok, %d failed, %d not there, after %lu ms. Powering off.\n\n", passed, failed, absent, pit_ticks * 10);
}
