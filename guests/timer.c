/* Two clocks measure each other: the PIT, interrupting through the PIC, and the local APIC's timer, whose frequency
 * no manual tells. */
#include "lib/lib.h"

enum { PIT_HZ = 100, TICKS = 20, LAPIC_HZ = 200, LAPIC_VECTOR = 0x40 };
enum { LVT_MASKED = 1 << 16, LVT_PERIODIC = 1 << 17, DIVIDE_BY_16 = 3 };

static volatile uint64_t lapic_ticks;

static void on_lapic_timer(struct frame *frame) {
    (void)frame;
    lapic_ticks++;
    lapic_write(LAPIC_EOI, 0);
}

/* Sleeps until `count` more PIT ticks have passed, the first of them only being waited for: it may be near. */
static void sleep_ticks(uint64_t count) {
    uint64_t end = pit_ticks + count;
    wait_until(pit_ticks >= end);
}

void main(void) {
    serial_init();
    interrupts_init();
    paging_identity();
    lapic_init();
    set_handler(LAPIC_VECTOR, on_lapic_timer);
    pit_start(PIT_HZ);
    sti();

    sleep_ticks(1);
    uint64_t begin = pit_ticks;
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED); /* counts once, silently */
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_16);
    lapic_write(LAPIC_TIMER_INITIAL, 0xFFFFFFFF);
    sleep_ticks(TICKS);
    uint32_t counted = 0xFFFFFFFF - lapic_read(LAPIC_TIMER_CURRENT);
    printf("pit: %lu interrupts at %d Hz\n", pit_ticks - begin, PIT_HZ);
    uint64_t frequency = (uint64_t)counted * PIT_HZ / TICKS; /* of the divided clock */
    printf("lapic: %u counts meanwhile: its clock runs at %lu kHz\n", counted, frequency * 16 / 1000);

    sleep_ticks(1);
    begin = pit_ticks;
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | LAPIC_VECTOR);
    lapic_write(LAPIC_TIMER_INITIAL, frequency / LAPIC_HZ);
    sleep_ticks(TICKS);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
    uint64_t pit = pit_ticks - begin, lapic = lapic_ticks;
    printf("lapic: %lu interrupts at %d Hz\n", lapic, LAPIC_HZ);
    printf("ratio: %lu.%02lu lapic interrupts a pit interrupt\n", lapic / pit, lapic * 100 / pit % 100);
    printf("timer: %s\n", lapic ? "ok" : "FAILED: no interrupt from the local APIC");
}
