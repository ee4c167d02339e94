/* A shell to write tests for: says "$ " and does one command a line. It has what a test wants to look at, too: a table
 * of processes, a pointer into it, an allocator, functions to call.
 *
 * Built twice. In long mode with the library, where input comes by interrupt and there are disks; in 32-bit protected
 * mode (shell32.S) alone with what needs no interrupts, so that Multiboot and PVH loaders of others start it as well. */
#include "lib/lib.h"

enum state { UNUSED, READY, RUNNING, ASLEEP };

struct process {
    int32_t pid;
    enum state state;
    char name[12];
    struct process *parent;
    int8_t nice;
    bool traced;
    uint16_t on_cpu : 3, priority : 5;
    uint64_t ticks;
};

struct process processes[4] = {
    {.pid = 1, .state = ASLEEP, .name = "init", .nice = -5, .ticks = 1ull << 40},
    {.pid = 7, .state = RUNNING, .name = "sh", .parent = &processes[0], .traced = true, .on_cpu = 5, .priority = 17},
};
struct process *current = &processes[1];
volatile int commands;
static const char *prompt = "$ ";
static char heap[4096];
static size_t heap_used;

/* For tests to call: main() keeps them from being left out. */
__attribute__((noipa)) int64_t mix(int8_t a, uint16_t b, int32_t c, int64_t d, int64_t e, int64_t f, int64_t g,
                                            int32_t h) {
    return a + b + c + d + e + f + 2 * g + 3 * h;
}
__attribute__((noipa)) bool is_running(const struct process *p) { return p->state == RUNNING; }
__attribute__((noipa)) void rename_current(const char *name) {
    for (size_t i = 0; i < sizeof current->name; i++)
        if (!(current->name[i] = *name++))
            break;
}

__attribute__((noipa)) void *allocate(size_t size) {
    asm volatile(""); /* so that the compiler knows nothing of what it returns */
    if (size > sizeof heap - heap_used)
        return NULL;
    heap_used += size;
    return heap + heap_used - size;
}

static void say(const char *text) { serial_write(text, strlen(text)); }

static void say_number(uint32_t value) {
    char text[11], *at = text + sizeof text - 1;
    *at = '\0';
    do
        *--at = '0' + value % 10;
    while (value /= 10);
    say(at);
}

#ifdef __i386__
static void read_line(char *line, size_t size) {
    for (size_t used = 0;;) {
        while (!(inb(0x3FD) & 1))
            pause();
        char c = inb(0x3F8);
        if (c == '\n' || c == '\r') {
            line[used] = '\0';
            return;
        }
        if (used < size - 1)
            line[used++] = c;
    }
}

static void start(void) { serial_init(); }
static void read_sector(uint32_t lba) {
    (void)lba;
    say("no disk\n");
}
#else
static void read_line(char *line, size_t size) { wait_until(serial_line(line, size)); }

static void start(void) {
    serial_init();
    interrupts_init();
    serial_receive_on();
    sti();
}

static void read_sector(uint32_t lba) {
    static struct ata_drive drive;
    static uint8_t sector[512];
    static bool has_disk;
    if (!pit_ticks) { /* not before: whoever steps through a kernel wants no timer in it */
        pit_start(100);
        ata_init();
        has_disk = ata_identify(0, 0, &drive) == ATA_DISK;
        wait_until(pit_ticks);
    }
    const char *error = has_disk ? ata_transfer(&drive, ATA_READ_SECTORS, lba, 1, sector) : "no disk";
    say("sector ");
    say_number(lba);
    say(": ");
    say(error ? error : "read");
    say("\n");
}
#endif

__attribute__((noipa)) static void do_command(char *line) {
    char *rest = line, *word = next_word(&rest);
    const char *number = rest;
    uint32_t value;
    if (strcmp(word, "echo") == 0) {
        say(rest);
        say("\n");
    } else if (strcmp(word, "login") == 0) {
        rename_current(rest);
        prompt = "# ";
    } else if (strcmp(word, "commands") == 0) {
        say_number(commands);
        say(" commands\n");
    } else if (strcmp(word, "allocate") == 0) {
        say(allocate(64) ? "allocated\n" : "out of memory\n");
    } else if (strcmp(word, "read") == 0 && parse_number(&number, 1 << 20, &value)) {
        read_sector(value);
    } else if (strcmp(word, "exit") == 0 && parse_number(&number, 255, &value)) {
        exit_guest(value);
    } else if (strcmp(word, "crash") == 0) {
        asm volatile("lidt %0; ud2" : : "m"(*(const char(*)[10]) "\0\0\0\0\0\0\0\0\0"));
    } else if (strcmp(word, "spin") == 0) {
        for (;;)
            pause();
    } else {
        say("what is ");
        say(word);
        say("?\n");
    }
}

void main(void) {
    static char line[128];
    asm volatile("" : : "r"(mix), "r"(is_running));
    start();
    for (;;) {
        say(prompt);
        read_line(line, sizeof line);
        commands++;
        do_command(line);
    }
}
