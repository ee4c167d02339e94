/* Serial both ways: says "ready", then gives back each line. "quit" powers off, "exit N" exits with the value N.
 * Input comes by interrupt, so the CPU sleeps until somebody types. */
#include "lib/lib.h"

/* Carries out "exit N"; returns if that is not what `line` says. */
static void try_exit(const char *line) {
    uint32_t value;
    if (memcmp(line, "exit ", 5) != 0)
        return;
    line += 5;
    if (parse_number(&line, 0xFFFFFFFF, &value) && !*line)
        exit_guest(value);
}

void main(void) {
    char line[256];
    serial_init();
    interrupts_init();
    serial_receive_on();
    printf("ready\n");
    for (;;) {
        wait_until(serial_line(line, sizeof line));
        if (strcmp(line, "quit") == 0)
            return;
        try_exit(line);
        printf("echo: %s\n", line);
    }
}
