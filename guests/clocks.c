/* What a pause does to the clocks: counts ticks of the PIT, the local APIC's timer and the RTC, and asks kvmclock. Each
 * byte on the serial port is answered by a line with all of them. */
#include "lib/lib.h"

enum { PIT_HZ = 500, LAPIC_VECTOR = 0x40, LVT_PERIODIC = 1 << 17, DIVIDE_BY_16 = 3, LAPIC_COUNT = 100000 };
enum { RTC_IRQ = 8, CMOS_INDEX = 0x70, CMOS_DATA = 0x71, RTC_A = 0xA, RTC_B = 0xB, RTC_C = 0xC };
enum { RTC_RATE_512_HZ = 0x27, RTC_PERIODIC_24H = 0x42 };
enum { MSR_KVM_SYSTEM_TIME = 0x4B564D01 };

/* Linux Documentation/virt/kvm/x86/msr.rst, struct pvclock_vcpu_time_info */
static volatile struct {
    uint32_t version, pad;
    uint64_t tsc, system_time;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, pad2[2];
} clock __attribute__((aligned(64)));

static volatile uint64_t lapic_ticks, rtc_ticks;

static void on_lapic_timer(struct frame *frame) {
    (void)frame;
    lapic_ticks++;
    lapic_write(LAPIC_EOI, 0);
}

static uint8_t cmos(uint8_t index) {
    outb(CMOS_INDEX, index);
    return inb(CMOS_DATA);
}

static void on_rtc(struct frame *frame) {
    (void)frame;
    rtc_ticks++;
    cmos(RTC_C);
}

void main(void) {
    serial_init();
    interrupts_init();
    paging_identity();
    lapic_init();
    set_handler(LAPIC_VECTOR, on_lapic_timer);
    set_irq_handler(RTC_IRQ, on_rtc);
    outb(CMOS_INDEX, RTC_A);
    outb(CMOS_DATA, RTC_RATE_512_HZ);
    outb(CMOS_INDEX, RTC_B);
    outb(CMOS_DATA, RTC_PERIODIC_24H);
    pic_unmask(RTC_IRQ);
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_16);
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | LAPIC_VECTOR);
    lapic_write(LAPIC_TIMER_INITIAL, LAPIC_COUNT);
    wrmsr(MSR_KVM_SYSTEM_TIME, (uint64_t)&clock | 1);
    serial_receive_on();
    pit_start(PIT_HZ);
    sti();
    printf("ready\n");
    char line[8];
    for (;;) {
        wait_until(serial_line(line, sizeof line));
        printf("pit %lu lapic %lu rtc %lu flags %u\n", pit_ticks, lapic_ticks, rtc_ticks, clock.flags);
    }
}
