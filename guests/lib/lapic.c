/* The local APIC (Intel SDM volume 3A, chapter 10), at its architectural address. */
#include "lib.h"

#define BASE 0xFEE00000ull
enum { SVR_ENABLE = 1 << 8, SPURIOUS_VECTOR = 0xFF, DELIVERY_EXTINT = 7 << 8 };

uint32_t lapic_read(uint32_t offset) { return *(volatile uint32_t *)(BASE + offset); }
void lapic_write(uint32_t offset, uint32_t value) { *(volatile uint32_t *)(BASE + offset) = value; }

/* Until it is software-enabled a local APIC neither runs its timer nor sends interrupts to other CPUs. */
void lapic_init(void) {
    lapic_write(LAPIC_SVR, SVR_ENABLE | SPURIOUS_VECTOR);
    lapic_write(LAPIC_LVT_LINT0, DELIVERY_EXTINT); /* "virtual wire": the PIC's output is at LINT0 */
}
