/* The 8254 timer's channel 0, which is IRQ 0 (Intel 8254 data sheet, "Programming the 8254"). */
#include "lib.h"

enum { CHANNEL0 = 0x40, CONTROL = 0x43, FREQUENCY = 1193182 /* Hz */ };

volatile uint64_t pit_ticks;
static uint32_t reload;

static void on_tick(struct frame *frame) {
    (void)frame;
    pit_ticks++;
}

void pit_start(uint32_t hz) {
    reload = FREQUENCY / hz;
    set_irq_handler(0, on_tick);
    outb(CONTROL, 0x34); /* channel 0, low byte then high byte, mode 2: rate generator */
    outb(CHANNEL0, reload);
    outb(CHANNEL0, reload >> 8);
    pic_unmask(0);
}

static uint32_t read_counter(void) {
    outb(CONTROL, 0x00); /* latch channel 0, so that both bytes are of one moment */
    uint32_t low = inb(CHANNEL0);
    return low | inb(CHANNEL0) << 8;
}

/* Works with interrupts off: it follows the counter itself, which counts from `reload` down to 1 and starts over. */
void pit_delay_us(uint32_t us) {
    uint64_t wanted = (uint64_t)us * FREQUENCY / 1000000, passed = 0;
    uint32_t last = read_counter();
    while (passed < wanted) {
        uint32_t now = read_counter();
        passed += last >= now ? last - now : last + reload - now;
        last = now;
    }
}
