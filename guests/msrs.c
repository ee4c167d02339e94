/* Finds every MSR that this CPU lets ring 0 change and read back changed: a line "W index" for each, then "ready". Then it
 * takes commands, a byte each: 'c' changes them all and says "changed"; 'r' says which differ from what they were at
 * first ("D index value") and then "read". It polls, so that nothing of it depends on an interrupt.
 *
 * Some steps need care. McStatusWrEn in HWCR (AMD) goes first: it lets MCi_STATUS be written. Where KVM writes to memory by an
 * MSR that holds an address, the address is `shared`. MSRs that the guest itself stands on are left alone: see
 * `left_alone`. */
#include "lib/lib.h"

enum { GP = 13, MSR_LENGTH = 2 }; /* bytes of RDMSR and of WRMSR */
enum { MSR_TSC = 0x10, MSR_APIC_BASE = 0x1B, MSR_TSC_DEADLINE = 0x6E0, MSR_HWCR = 0xC0010015 };
enum { KVM_WALL_CLOCK_OLD = 0x11, KVM_SYSTEM_TIME_OLD = 0x12, HYPERV_FIRST = 0x40000000 };
#define HWCR_MC_STATUS_WRITE (1ull << 18)
#define MSR_VM_CR 0xC0010114u
enum { LIMIT = 1024 };

static struct {
    uint32_t index;
    uint64_t before, changed;
} found[LIMIT];
static unsigned count;
static uint8_t shared[PAGE] __attribute__((aligned(PAGE)));
static volatile bool faulted;

static void on_gp(struct frame *frame) {
    faulted = true;
    frame->rip += MSR_LENGTH;
}

static bool try_read(uint32_t msr, uint64_t *value) {
    uint32_t low = 0, high = 0;
    faulted = false;
    asm volatile("rdmsr" : "+a"(low), "=d"(high) : "c"(msr) : "memory");
    *value = (uint64_t)high << 32 | low;
    return !faulted;
}

static bool try_write(uint32_t msr, uint64_t value) {
    faulted = false;
    wrmsr(msr, value);
    return !faulted;
}

/* The TSC moves by itself; without its APIC or with another mode the guest would not go on; the deadline reads as 0 outside
 * of its mode. */
static bool left_alone(uint32_t msr) {
    return msr == MSR_TSC || msr == MSR_APIC_BASE || msr == MSR_EFER || msr == MSR_TSC_DEADLINE;
}

static bool holds_address(uint32_t msr) {
    return msr == KVM_WALL_CLOCK_OLD || msr == KVM_SYSTEM_TIME_OLD ||
           (msr >= HYPERV_FIRST && msr < HYPERV_FIRST + 0x200);
}

static bool changes(uint32_t msr, uint64_t before, uint64_t value) {
    uint64_t now;
    if (value == before || !try_write(msr, value) || !try_read(msr, &now) || now == before)
        return false;
    if (count == LIMIT)
        panic("more than %u MSRs can be written", LIMIT);
    found[count].index = msr;
    found[count].before = before;
    found[count++].changed = value;
    try_write(msr, before);
    return true;
}

static bool find_change(uint32_t msr, uint64_t before) {
    if (holds_address(msr))
        return changes(msr, before, (uint64_t)shared | 1) || changes(msr, before, (uint64_t)shared) ||
               changes(msr, before, before ^ 1);
    if (changes(msr, before, ~0ull) || changes(msr, before, 0))
        return true;
    for (int bit = 0; bit < 64; bit++) {
        /* SVMDIS and LOCK in VM_CR cannot be taken back, by nobody. */
        if (!(msr == MSR_VM_CR && (bit == 3 || bit == 4)) && changes(msr, before, before ^ 1ull << bit))
            return true;
    }
    return false;
}

static void scan(uint32_t first, uint32_t size) {
    for (uint32_t msr = first; msr < first + size; msr++) {
        uint64_t before;
        if (!left_alone(msr) && try_read(msr, &before) && find_change(msr, before))
            printf("W %x\n", msr);
    }
}

void main(void) {
    serial_init();
    interrupts_init();
    set_handler(GP, on_gp);
    uint64_t hwcr;
    if (try_read(MSR_HWCR, &hwcr))
        try_write(MSR_HWCR, hwcr | HWCR_MC_STATUS_WRITE);
    scan(0, 0x2000);
    scan(HYPERV_FIRST, 0x200);
    scan(0xC0000000, 0x200);
    scan(0xC0010000, 0x2000);
    printf("ready\n");
    for (;;) {
        while (!(inb(0x3FD) & 1))
            ;
        char command = inb(0x3F8);
        for (unsigned at = 0; at < count; at++) {
            uint64_t now;
            if (command == 'c')
                try_write(found[at].index, found[at].changed);
            else if (!try_read(found[at].index, &now) || now != found[at].before)
                printf("D %x %lx\n", found[at].index, now);
        }
        printf(command == 'c' ? "changed\n" : "read\n");
    }
}
