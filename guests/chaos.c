/* Reads and writes random ports, with random sizes and values, for ever. The same ones at every run, so that what it
 * breaks breaks again. No device may take harm, and no host. */
#include "lib/lib.h"

/* Ports that would end the game: exits, power-offs, resets. */
static const struct {
    uint16_t first, last;
} avoided[] = {{0x64, 0x64},   {0x92, 0x92},   {0xF4, 0xF7},    {0x501, 0x501},
               {0x600, 0x60F}, {0xCF9, 0xCF9}, {0x8900, 0x8900}};

/* Where devices live. Of 65536 ports few are in use: half of the shots go here. */
static const struct {
    uint16_t first, size;
} devices[] = {{0x1F0, 8}, {0x170, 8}, {0x3F6, 1}, {0x376, 1}, {0x300, 96}, {0x3F8, 8}, {0x2F8, 8}, {0x3E8, 8},
               {0x2E8, 8}, {0x20, 2},  {0xA0, 2},  {0x40, 4},  {0x60, 5},   {0x70, 2},  {0x3B0, 48}, {0x510, 12},
               {0x280, 32}};

static uint32_t random(void) {
    static uint32_t state = 2463534242; /* Marsaglia's xorshift32 */
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static bool fatal(uint32_t port, uint32_t size) {
    for (size_t i = 0; i < sizeof avoided / sizeof *avoided; i++)
        if (port <= avoided[i].last && port + size > avoided[i].first)
            return true;
    return port + size > 0x10000;
}

static uint16_t random_port(void) {
    uint32_t r = random();
    if (r & 1)
        return r >> 16;
    r >>= 8;
    size_t device = r % (sizeof devices / sizeof *devices);
    return devices[device].first + (r >> 8) % devices[device].size;
}

void main(void) {
    serial_init();
    printf("chaos\n");
    for (;;) {
        uint16_t port = random_port();
        uint32_t action = random() >> 16, size = 1 << action % 3, value = random();
        bool in = action & 8;
        if (fatal(port, size))
            continue;
        switch (size) {
        case 1:
            in ? (void)inb(port) : outb(port, value);
            break;
        case 2:
            in ? (void)inw(port) : outw(port, value);
            break;
        case 4:
            in ? (void)inl(port) : outl(port, value);
            break;
        }
    }
}
