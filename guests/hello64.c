/* The shortest 64-bit guest: one line on the serial port. start.S calls main() and powers off when it returns. */
#include "lib/lib.h"

void main(void) {
    serial_init();
    printf("Hello from 64-bit long mode!\n");
}
