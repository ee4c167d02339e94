/* The high precision event timer: its first timer interrupts in place of the PIT, whose own interrupts then stay away. */
#include "lib/lib.h"

#define BASE 0xFED00000ull
enum { ID = 0x000, CONFIGURATION = 0x010, COUNTER = 0x0F0, TIMER_0 = 0x100, COMPARATOR_0 = 0x108 };
enum { ENABLE = 1, LEGACY = 2 };
enum { INTERRUPT = 1 << 2, PERIODIC = 1 << 3, SET_VALUE = 1 << 6 };
enum { PIT_HZ = 1000, HPET_HZ = 100, TICKS = 20 };

static volatile uint64_t ticks;

static uint64_t hpet_read(uint32_t offset) { return *(volatile uint64_t *)(BASE + offset); }
static void hpet_write(uint32_t offset, uint64_t value) { *(volatile uint64_t *)(BASE + offset) = value; }

static void on_tick(struct frame *frame) {
    (void)frame;
    ticks++;
}

void main(void) {
    serial_init();
    interrupts_init();
    pit_start(PIT_HZ);
    set_irq_handler(0, on_tick);

    uint64_t id = hpet_read(ID), period = id >> 32; /* in femtoseconds */
    uint64_t frequency = 1000000000000000 / period, step = frequency / HPET_HZ;
    printf("hpet: %lu timers, vendor %x, %lu kHz\n", (id >> 8 & 31) + 1, (unsigned)(id >> 16 & 0xFFFF), frequency / 1000);
    hpet_write(TIMER_0, INTERRUPT | PERIODIC | SET_VALUE);
    hpet_write(COMPARATOR_0, step);
    hpet_write(COMPARATOR_0, step);
    hpet_write(COUNTER, 0);
    hpet_write(CONFIGURATION, ENABLE | LEGACY);
    sti();
    uint64_t end;
    do
        wait_until(ticks > 0);
    while ((end = hpet_read(COUNTER)) < TICKS * step);
    cli();
    uint64_t due = end / step;
    printf("hpet: %s\n", ticks <= due + 1 ? "no more interrupts than periods" : "FAILED: the PIT interrupts, too");
    hpet_write(CONFIGURATION, 0);
    uint64_t stands = hpet_read(COUNTER);
    printf("hpet: %s\n", hpet_read(COUNTER) == stands ? "it stands" : "FAILED: it does not stand");
    ticks = 0;
    sti();
    wait_until(ticks >= 3);
    printf("hpet: the PIT is back\n");
}
