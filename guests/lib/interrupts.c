/* GDT, TSS, IDT and the one function all interrupts come to (Intel SDM volume 3A, chapters 3, 6 and 7). */
#include "lib.h"

extern const char vectors[]; /* vectors.S: an entry every 16 bytes */

struct gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

/* Flat segments: in long mode base and limit do not count, only the rights do. */
static uint64_t gdt[] = {
    0,
    0x00AF9B000000FFFF, /* KERNEL_CS: 64-bit code */
    0x00CF93000000FFFF, /* KERNEL_DS */
    0x00CFF3000000FFFF, /* USER_DS: before the code, as SYSRET would have it */
    0x00AFFB000000FFFF, /* USER_CS */
    0, 0,               /* TSS_SELECTOR: two entries long */
};

static struct {
    uint32_t reserved;
    uint64_t rsp[3]; /* rsp[0] is the stack for interrupts that come from ring 3 */
    uint64_t unused[9];
    uint16_t unused2, io_map;
} __attribute__((packed)) tss = {.io_map = sizeof tss}; /* no I/O map: ring 3 may use no port */

static struct gate idt[256];
static handler *handlers[256];

enum { INTERRUPT_GATE = 0x8E, DPL_3 = 0x60 }; /* present, type 14: comes with interrupts off */

static void set_gate(int vector, uint64_t address) {
    idt[vector] = (struct gate){
        .offset_low = address,
        .selector = KERNEL_CS,
        .type = INTERRUPT_GATE,
        .offset_middle = address >> 16,
        .offset_high = address >> 32,
    };
}

void allow_from_user(int vector) { idt[vector].type |= DPL_3; }
void set_handler(int vector, handler *h) { handlers[vector] = h; }
void set_irq_handler(int irq, handler *h) { handlers[IRQ0 + irq] = h; }
void set_kernel_stack(uint64_t rsp) { tss.rsp[0] = rsp; }

static void load_segments(void) {
    uint64_t base = (uint64_t)&tss;
    gdt[5] = 0x0000890000000000 | (base & 0xFFFFFF) << 16 | (base >> 24 & 0xFF) << 56 | (sizeof tss - 1);
    gdt[6] = base >> 32;
    lgdt((struct table_register){sizeof gdt - 1, (uint64_t)gdt});
    /* CS can only be loaded by a jump; a far return is one that takes its target from the stack. */
    asm volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:\n"
                 "mov %1, %%ds; mov %1, %%es; mov %1, %%fs; mov %1, %%gs; mov %1, %%ss"
                 :
                 : "i"(KERNEL_CS), "r"(KERNEL_DS)
                 : "rax", "memory");
    ltr(TSS_SELECTOR);
}

void interrupts_init(void) {
    load_segments();
    for (int i = 0; i < 256; i++)
        set_gate(i, (uint64_t)vectors + 16 * i);
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    pic_init();
}

const char *exception_name(int vector) {
    static const char *const names[] = {
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR",       "#UD", "#NM", "#DF", "vector 9", "#TS",
        "#NP", "#SS", "#GP", "#PF", "vector 15", "#MF", "#AC", "#MC", "#XM", "#VE",      "#CP",
    };
    return vector < (int)(sizeof names / sizeof *names) ? names[vector] : "reserved exception";
}

/* Called by vectors.S. */
void interrupt(struct frame *frame);
void interrupt(struct frame *frame) {
    int vector = frame->vector, irq = vector - IRQ0;
    bool from_pic = irq >= 0 && irq < 16;
    if (from_pic && pic_spurious(irq))
        return;
    if (handlers[vector])
        handlers[vector](frame);
    else if (vector < IRQ0)
        panic("%s, error code 0x%lx, at rip 0x%lx, rsp 0x%lx, cr2 0x%lx", exception_name(vector), frame->error,
              frame->rip, frame->rsp, read_cr2());
    if (from_pic)
        pic_eoi(irq);
}
