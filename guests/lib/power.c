/* Ends of a run: ACPI specification, section 4.8.3.2 (PM1 control), and QEMU's isa-debug-exit device. */
#include "lib.h"

#define PM1A_CONTROL 0x604 /* where QEMU's "pc" machine has it; a real kernel reads the address from the FADT */
#define SLEEP_ENABLE (1 << 13)
#define DEBUG_EXIT 0xF4

_Noreturn void halt(void) {
    /* The loop is for non-maskable interrupts, which wake a halted CPU all the same. */
    for (;;)
        asm volatile("cli; hlt");
}

_Noreturn void poweroff(void) {
    outw(PM1A_CONTROL, SLEEP_ENABLE);
    halt();
}

_Noreturn void exit_guest(uint32_t value) {
    outl(DEBUG_EXIT, value);
    halt();
}
