/* All CPUs at work: the bootstrap processor (BSP) wakes the others (APs) by INIT-SIPI-SIPI, each adds to one counter
 * under a ticket lock, and the BSP tells who did how much (Intel SDM volume 3A, section 8.4). */
#include "lib/lib.h"

enum { AP_PAGE = 0x8000, STACKS = 64 }; /* as in smp_trampoline.S */
enum { ROUNDS = 7 };
enum { ICR_ALL_BUT_SELF = 3 << 18, ICR_ASSERT = 1 << 14, ICR_INIT = 5 << 8, ICR_STARTUP = 6 << 8 };
enum { ICR_PENDING = 1 << 12 };

/* smp_trampoline.S; the variables are those of its copy at AP_PAGE, see low(). */
extern char trampoline[], trampoline_end[], trampoline_cr3[], trampoline_cpus[];

/* A ticket lock: who comes draws a number and waits until it is called. First come, first served. */
static struct {
    uint32_t next_ticket, now_serving;
} lock;

static volatile bool go;
static volatile uint32_t finished;
static volatile uint32_t total;       /* under the lock */
static volatile uint32_t counts[256]; /* by APIC ID; each written by its own CPU only. 0: no such CPU */

static volatile uint32_t *low(const char *variable) {
    return (volatile uint32_t *)(AP_PAGE + (variable - trampoline));
}

static void acquire(void) {
    uint32_t mine = __atomic_fetch_add(&lock.next_ticket, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&lock.now_serving, __ATOMIC_ACQUIRE) != mine)
        pause();
}

static void release(void) { __atomic_store_n(&lock.now_serving, lock.now_serving + 1, __ATOMIC_RELEASE); }

static void count(void) {
    uint32_t id = lapic_read(LAPIC_ID) >> 24;
    for (int i = 0; i < ROUNDS; i++) {
        acquire();
        total++;
        release();
        counts[id]++;
    }
    __atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
}

/* Called by the trampoline on each AP; when it returns, the AP halts. */
void ap_main(void);
void ap_main(void) {
    lapic_init();
    while (!go)
        pause();
    count();
}

static void send_to_others(uint32_t what) {
    lapic_write(LAPIC_ICR_LOW, ICR_ALL_BUT_SELF | ICR_ASSERT | what);
    while (lapic_read(LAPIC_ICR_LOW) & ICR_PENDING)
        pause();
}

/* How many logical CPUs a package has room for. That many need not be there: only firmware tables would tell. */
static uint32_t cpus_by_cpuid(void) {
    if (cpuid(0, 0).eax >= 0xB) {
        struct cpuid cores = cpuid(0xB, 1);
        if (cores.ebx & 0xFFFF)
            return cores.ebx & 0xFFFF;
    }
    struct cpuid features = cpuid(1, 0);
    return features.edx & 1 << 28 ? features.ebx >> 16 & 0xFF : 1;
}

static uint32_t wake_others(void) {
    memcpy((void *)AP_PAGE, trampoline, trampoline_end - trampoline);
    *low(trampoline_cr3) = read_cr3();
    send_to_others(ICR_INIT);
    pit_delay_us(10000);
    send_to_others(ICR_STARTUP | AP_PAGE >> 12);
    pit_delay_us(200);
    send_to_others(ICR_STARTUP | AP_PAGE >> 12); /* for those that missed the first; the others ignore it */

    /* Nobody says when the last one has come. Wait until no more came for a while: shorter once CPUID's number is
     * reached, for that may be wrong either way. */
    uint32_t expected = cpus_by_cpuid(), seen = 0;
    for (uint32_t quiet_ms = 0; quiet_ms < (seen + 1 >= expected ? 50 : 500); quiet_ms++) {
        uint32_t now = *low(trampoline_cpus);
        if (now != seen)
            quiet_ms = 0;
        seen = now;
        pit_delay_us(1000);
    }
    /* Close the door: whoever comes now gets a number that is too high, and halts. */
    seen = __atomic_exchange_n(low(trampoline_cpus), STACKS, __ATOMIC_SEQ_CST);
    return seen < STACKS ? seen : STACKS;
}

void main(void) {
    serial_init();
    interrupts_init();
    paging_identity();
    lapic_init();
    pit_start(100);
    uint32_t others = wake_others();
    printf("smp: %u CPUs\n", others + 1);
    go = true;
    count();
    while (finished != others + 1)
        pause();
    for (int id = 0; id < 256; id++)
        if (counts[id])
            printf("cpu %d: %u\n", id, counts[id]);
    printf("total: %u\n", total);
}
