/* A 32-bit kernel in the upper half: paging with pages of 4 MiB and of 4 KiB, ring 3, system calls by INT 0x80, and a
 * page that is there only once it is asked for (Intel SDM volume 3A: 4.3 32-bit paging, 6.12.1 the stack switch, 7.2.1
 * the TSS). The other guests have a library, which is 64-bit; this one stands alone.
 *
 * The first 4 MiB of RAM are at KERNEL_BASE, in one page, for ring 0 only. Ring 3 has USER_BASE and the 4 MiB above it,
 * of which it gets single pages. Everything else is absent, address 0 as well. */
#include <stdbool.h>
#include <stdint.h>

#define KERNEL_BASE 0xC0000000u
#define USER_BASE 0x40000000u
#define USER_STACK 0x40001000u
#define LARGE_PAGE 0x400000u
#define PAGE 4096u

enum { PRESENT = 1, WRITE = 2, USER = 4 }; /* in directory and table entries, and in the error code of #PF */
enum { KERNEL_CS = 0x08, KERNEL_DS = 0x10, USER_CS = 0x18 | 3, TSS_SELECTOR = 0x28 };
enum { PF = 14, SYSTEM_CALL = 0x80 }; /* vectors */
enum { SYS_EXIT = 1, SYS_WRITE = 4, EFAULT = 14, ENOSYS = 38 };

/* paged32.S and paged32.ld */
_Noreturn void enter_user(uint32_t eip, uint32_t esp);
void system_call_entry(void), page_fault_entry(void), user_main(void);
extern char stack_top[], user_physical[];

struct frame { /* what paged32.S and the CPU push: the lowest address first */
    uint32_t edi, esi, ebp, unused, ebx, edx, ecx, eax;
    uint32_t handler, error;
    uint32_t eip, cs, eflags, esp, ss;
};
void main(void);
void system_call(struct frame *frame);
void page_fault(struct frame *frame);

/* Ports and printing */

static void outb(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static uint8_t inb(uint16_t port) {
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void put(char c) {
    while (!(inb(0x3F8 + 5) & 0x20)) /* COM1's transmitter holding register is not empty */
        ;
    outb(0x3F8, c);
}

static void print(const char *s) {
    while (*s)
        put(*s++);
}

static void print_hex(uint32_t value) {
    print("0x");
    for (int shift = 28; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

/* isa-debug-exit: the host's exit status becomes value * 2 + 1. */
static _Noreturn void exit_guest(uint8_t value) {
    outb(0xF4, value);
    for (;;)
        asm volatile("cli; hlt");
}

/* Segments and gates. The segments are flat: protection is the pages' business. */

static uint64_t gdt[] = {
    0,
    0x00CF9B000000FFFF, /* KERNEL_CS */
    0x00CF93000000FFFF, /* KERNEL_DS */
    0x00CFFB000000FFFF, /* USER_CS */
    0x00CFF3000000FFFF, /* USER_DS */
    0,                  /* TSS_SELECTOR */
};

/* The CPU finds the kernel's stack here when it comes from ring 3. */
static struct {
    uint32_t link, esp0, ss0, unused[22];
    uint16_t trap, io_map;
} tss = {.ss0 = KERNEL_DS, .io_map = sizeof tss}; /* no I/O map: ring 3 may use no port */

/* Two gates are enough. Whatever else happens has none: it ends as a triple fault, and the host tells of it. */
static struct gate {
    uint16_t offset_low, selector, type, offset_high;
} idt[256];

struct table_register {
    uint16_t limit; /* size in bytes, minus one */
    void *base;
} __attribute__((packed));

static void set_gate(int vector, void (*entry)(void), uint16_t type) {
    uint32_t offset = (uint32_t)entry;
    idt[vector] = (struct gate){offset, KERNEL_CS, type, offset >> 16};
}

static void segments_init(void) {
    uint64_t base = (uint32_t)&tss;
    tss.esp0 = (uint32_t)stack_top; /* main() is over when it is used */
    gdt[TSS_SELECTOR / 8] = 0x0000890000000000 | (base & 0xFFFFFF) << 16 | (base >> 24) << 56 | (sizeof tss - 1);
    struct table_register gdtr = {sizeof gdt - 1, gdt}, idtr = {sizeof idt - 1, idt};
    set_gate(PF, page_fault_entry, 0x8E00);           /* present, 32-bit interrupt gate */
    set_gate(SYSTEM_CALL, system_call_entry, 0xEE00); /* the same, and open to INT n in ring 3 */
    asm volatile("lgdt %0; lidt %1" : : "m"(gdtr), "m"(idtr));
    asm volatile("ljmp %0, $1f; 1:\n"
                 "mov %1, %%ds; mov %1, %%es; mov %1, %%fs; mov %1, %%gs; mov %1, %%ss; ltr %w2"
                 :
                 : "i"(KERNEL_CS), "r"(KERNEL_DS), "r"(TSS_SELECTOR)
                 : "memory");
}

/* Pages */

uint32_t page_directory[1024] __attribute__((aligned(PAGE))); /* paged32.S has begun it */
static uint32_t user_table[1024] __attribute__((aligned(PAGE)));
static uint8_t user_stack[PAGE] __attribute__((aligned(PAGE)));
static uint8_t spare[PAGE] __attribute__((aligned(PAGE)));

static uint32_t physical(const void *kernel_address) { return (uint32_t)kernel_address - KERNEL_BASE; }

/* `virtual` is one of ring 3's. A page that was absent is in no TLB: nothing needs to be thrown out of there. */
static void map_user(uint32_t virtual, uint32_t physical, uint32_t flags) {
    user_table[virtual / PAGE % 1024] = physical | flags | USER | PRESENT;
}

static bool is_users(uint32_t address, uint32_t size) {
    if (address < USER_BASE || size > LARGE_PAGE || address - USER_BASE > LARGE_PAGE - size)
        return false;
    for (uint32_t page = address / PAGE; size && page <= (address + size - 1) / PAGE; page++)
        if (!(user_table[page % 1024] & PRESENT))
            return false;
    return true;
}

static void paging_init(void) {
    page_directory[0] = 0; /* we are in the upper half: from now on a null pointer is a fault */
    page_directory[USER_BASE / LARGE_PAGE] = physical(user_table) | USER | WRITE | PRESENT;
    map_user(USER_BASE, (uint32_t)user_physical, 0); /* code: without WRITE */
    map_user(USER_STACK, physical(user_stack), WRITE);
    asm volatile("mov %0, %%cr3" : : "r"(physical(page_directory)) : "memory"); /* empties the TLB */
}

/* What ring 3 wants: called by paged32.S */

void page_fault(struct frame *frame) {
    static bool spare_used;
    uint32_t address;
    asm volatile("mov %%cr2, %0" : "=r"(address));
    print(frame->error & USER ? "page fault: ring 3 " : "page fault: the kernel ");
    print(frame->error & WRITE ? "writes to " : "reads ");
    print_hex(address);
    print(frame->error & PRESENT ? ", a page that is not for it" : ", where no page is");
    print(", at eip ");
    print_hex(frame->eip);
    print("\n");
    if (frame->error != (USER | WRITE) || address / LARGE_PAGE != USER_BASE / LARGE_PAGE || spare_used)
        exit_guest(1);
    spare_used = true;
    map_user(address, physical(spare), WRITE); /* IRET leads to the same instruction again */
}

/* Ring 3 is not to be believed: what it points to must be its own, to the last byte. */
static int32_t write_for_user(uint32_t address, uint32_t size) {
    if (!is_users(address, size)) {
        print("write: refused to read ");
        print_hex(address);
        print(" for ring 3\n");
        return -EFAULT;
    }
    for (const char *s = (const char *)address; s < (const char *)(address + size); s++)
        put(*s);
    return size;
}

void system_call(struct frame *frame) {
    switch (frame->eax) {
    case SYS_WRITE:
        frame->eax = write_for_user(frame->ecx, frame->edx);
        break;
    case SYS_EXIT:
        print("exit: ");
        print_hex(frame->ebx);
        print("\n");
        exit_guest(frame->ebx);
    default:
        frame->eax = -ENOSYS;
    }
}

void main(void) {
    segments_init();
    paging_init();
    print("paged32: the kernel runs at ");
    print_hex((uint32_t)main & ~(LARGE_PAGE - 1));
    print(", RAM's first 4 MiB\n");
    enter_user((uint32_t)user_main, USER_STACK + PAGE);
}
