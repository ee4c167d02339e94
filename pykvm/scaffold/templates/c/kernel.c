/* @NAME@: says hello on the serial port, and what it hears there. "q" ends the machine. */

enum { COM1 = 0x3F8, LINE_STATUS = COM1 + 5, RECEIVED = 1 << 0, MAY_SEND = 1 << 5, EXIT_PORT = 0xF4 };

static unsigned char inb(unsigned short port) {
    unsigned char value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void outb(unsigned short port, unsigned char value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void put(char character) {
    while (!(inb(LINE_STATUS) & MAY_SEND))
        ;
    outb(COM1, (unsigned char)character);
}

static char get(void) {
    while (!(inb(LINE_STATUS) & RECEIVED))
        ;
    return (char)inb(COM1);
}

static void print(const char *text) {
    for (; *text; text++)
        put(*text);
}

void kernel_main(unsigned magic, void *information) {
    (void)magic;
    (void)information;
    print("Hello from @NAME@!\nready\n");
    for (;;) {
        char key = get();
        if (key == 'q')
            outb(EXIT_PORT, 0x10); /* pykvm ends with the status 0x10 * 2 + 1; so does QEMU with isa-debug-exit */
        print("you typed ");
        put(key);
        print("\n");
    }
}
