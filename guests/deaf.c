/* Switches the NE2000's receiver on, takes every frame on the wire, and never reads one: the ring fills and stays full.
 * A host has to bear that without blocking or hoarding frames. */
#include "lib/lib.h"

void main(void) {
    uint8_t mac[6];
    serial_init();
    interrupts_init();
    if (!ne2000_init(mac)) {
        printf("no NE2000 at 0x300\n");
        return;
    }
    ne2000_start(mac, NE2000_BROADCAST | NE2000_PROMISCUOUS);
    printf("deaf\n");
    for (;;)
        wait_for_interrupt(); /* all IRQs are masked: asleep for ever, but not dead, as interrupts are on */
}
