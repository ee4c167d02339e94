/* Ways to die, for learning to read a crash report. Built once for each way, -DWAY=name, into crash-name.elf.
 *
 * An exception that cannot be delivered becomes a double fault (#DF); a double fault that cannot be delivered becomes
 * a triple fault: the CPU shuts down (Intel SDM volume 3A, section 6.15, interrupt 8). Most ways end so. */
#include "lib/lib.h"

#define DEATH static __attribute__((noipa, unused)) void

enum { UD = 6 };

#define NOWHERE 0x0000700000000000ull /* a canonical address that nothing is mapped at */

static void no_idt_at_all(void) { lidt((struct table_register){0, 0}); }

/* No IDT: not one exception can be delivered. */
DEATH no_idt(void) {
    no_idt_at_all();
    asm volatile("ud2");
}

/* An IDT of zeros: type 0 is no gate. #PF finds none, so #GP, which finds none: #DF, which finds none. */
DEATH idt_not_present(void) {
    static const uint64_t idt[512];
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    *(volatile int *)NOWHERE;
}

/* A sound IDT, but the stack pointer is off: the fault's frame cannot be pushed, nor the double fault's. */
DEATH bad_stack(void) {
    interrupts_init();
    asm volatile("mov %0, %%rsp; push %%rax" : : "r"(NOWHERE));
}

/* The same by honest means: recursion runs into the unmapped page below the stack. */
static uint8_t small_stack[3][PAGE] __attribute__((aligned(PAGE), unused));

static __attribute__((noipa, unused)) int descend(int depth) {
    volatile uint8_t locals[256];
    locals[0] = depth;
    return depth ? descend(depth - 1) + locals[0] : 0;
}

DEATH stack_overflow(void) {
    interrupts_init();
    paging_identity();
    paging_unmap((uint64_t)small_stack[0]);
    asm volatile("mov %0, %%rsp; xor %%ebp, %%ebp; call *%1" : : "r"(small_stack[3]), "r"(descend), "D"(1000000));
}

/* A call through a null pointer, where page 0 is not mapped. */
DEATH null_call(void) {
    void (*volatile function)(void) = NULL;
    paging_identity();
    no_idt_at_all();
    function();
}

/* Ring 0 may write to read-only pages, unless CR0.WP is set. */
static uint64_t constant[PAGE / 8] __attribute__((aligned(PAGE), unused)) = {42};

DEATH write_readonly(void) {
    paging_identity();
    paging_map((uint64_t)constant, (uint64_t)constant, 0);
    write_cr0(read_cr0() | CR0_WP);
    no_idt_at_all();
    *(volatile uint64_t *)constant = 43;
}

/* Bits 63 to 47 of an address must be equal: else #GP, not #PF. */
DEATH non_canonical(void) {
    no_idt_at_all();
    *(volatile int *)0x8000000000000000ull;
}

/* All gates are task gates, which long mode does not have: #GP in place of each exception. */
DEATH wrong_gate(void) {
    static uint64_t idt[512];
    for (int vector = 0; vector < 256; vector++)
        idt[2 * vector] = 0x0000850000000000; /* present, DPL 0, type 5 */
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    asm volatile("ud2");
}

/* The IDT's own page is not mapped. */
DEATH idt_unmapped(void) {
    lidt((struct table_register){PAGE - 1, NOWHERE});
    asm volatile("ud2");
}

/* The operand of `lidt` has a limit, but its base was forgotten, and page 0 is not mapped. */
DEATH idt_base_forgotten(void) {
    paging_identity();
    lidt((struct table_register){PAGE - 1, 0});
    asm volatile("ud2");
}

/* All gates lead to a code segment that the GDT does not have. */
DEATH gate_selector(void) {
    static uint64_t idt[512];
    for (int vector = 0; vector < 256; vector++)
        idt[2 * vector] = 0x00008E0001000000; /* present, interrupt gate, selector 0x100 */
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    asm volatile("ud2");
}

/* All gates lead to a handler that is not there: its first fetch faults, and so on, until the stack is used up. */
DEATH handler_unmapped(void) {
    static uint64_t idt[512];
    for (int vector = 0; vector < 256; vector++) {
        idt[2 * vector] = 0x00008E0000080000; /* present, interrupt gate, KERNEL_CS */
        idt[2 * vector + 1] = NOWHERE >> 32;
    }
    paging_identity();
    paging_unmap((uint64_t)small_stack[0]);
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    asm volatile("mov %0, %%rsp; ud2" : : "r"(small_stack[3]));
}

/* A sound IDT and a bad stack, and #DF has a stack of its own, as it should: but nobody has put it into the TSS. */
DEATH ist_missing(void) {
    struct table_register idtr;
    interrupts_init();
    asm volatile("sidt %0" : "=m"(idtr));
    ((uint8_t *)idtr.base)[16 * 8 + 4] = 1; /* the gate of #DF: IST 1 */
    asm volatile("mov %0, %%rsp; push %%rax" : : "r"(NOWHERE));
}

/* A selector that lies beyond the GDT. */
DEATH bad_selector(void) {
    no_idt_at_all();
    asm volatile("mov %0, %%es" : : "r"(0x100));
}

/* A jump to where no address can be. */
DEATH wild_jump(void) {
    no_idt_at_all();
    asm volatile("jmp *%0" : : "r"(0x1234567800000000ull));
}

/* A jump to where there is no memory, only mapped addresses: no exception, but nothing to execute either. */
DEATH jump_to_nothing(void) {
    no_idt_at_all();
    asm volatile("jmp *%0" : : "r"(0xC0000000ull));
}

/* Data is not code, where page tables can say so. */
DEATH no_execute(void) {
    paging_identity();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    paging_map((uint64_t)constant, (uint64_t)constant, PAGE_WRITE | PAGE_NX);
    no_idt_at_all();
    ((void (*)(void))constant)();
}

/* A page table entry with an address that no CPU of today has. */
DEATH reserved_bit(void) {
    paging_identity();
    paging_map((uint64_t)constant, (uint64_t)constant | 1ull << 51, 0);
    no_idt_at_all();
    *(volatile uint64_t *)constant;
}

/* IRETQ takes a frame from the stack that nobody has put there. */
DEATH bad_iret(void) {
    no_idt_at_all();
    asm volatile("push $0x10; push $0; push $2; push $0x73; push $0; iretq");
}

/* Ring 3 faults, and the TSS has no stack to take the exception on: RSP0 was never set. */
static uint8_t user_page[PAGE] __attribute__((aligned(PAGE), unused)) = {0x0F, 0x0B}; /* ud2 */

DEATH no_kernel_stack(void) {
    interrupts_init();
    paging_identity();
    paging_map((uint64_t)user_page, (uint64_t)user_page, PAGE_USER | PAGE_WRITE);
    asm volatile("push %0; push %1; push $2; push %2; push %3; iretq"
                 :
                 : "i"(USER_DS), "r"(user_page + PAGE), "i"(USER_CS), "r"(user_page));
}

/* The same without a TSS: nobody has executed `ltr`. */
DEATH no_tss(void) {
    static const uint64_t gdt[] = {0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF};
    static uint64_t idt[512];
    idt[2 * UD] = 0x00008E0000080000; /* present, interrupt gate, KERNEL_CS: it is never entered */
    lgdt((struct table_register){sizeof gdt - 1, (uint64_t)gdt});
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    paging_identity();
    paging_map((uint64_t)user_page, (uint64_t)user_page, PAGE_USER | PAGE_WRITE);
    asm volatile("push %0; push %1; push $2; push %2; push %3; iretq"
                 :
                 : "i"(USER_DS), "r"(user_page + PAGE), "i"(USER_CS), "r"(user_page));
}

/* The handler of #GP leaves the error code on the stack: its `iretq` raises #GP again, and so on. */
void keeps_error_code(void);
asm("keeps_error_code: iretq");

DEATH error_code_storm(void) {
    static uint64_t idt[512];
    idt[2 * 13] = 0x00008E0000080000 | ((uint64_t)keeps_error_code & 0xFFFF) |
                  ((uint64_t)keeps_error_code >> 16 & 0xFFFF) << 48;
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    asm volatile("mov %0, %%es" : : "r"(0x100));
}

/* A handler of #UD that returns to the instruction, which raises it again: no end, and no crash. */
void comes_back(void);
asm("comes_back: iretq");

DEATH fault_again(void) {
    static uint64_t idt[512];
    idt[2 * UD] = 0x00008E0000080000 | ((uint64_t)comes_back & 0xFFFF) | ((uint64_t)comes_back >> 16 & 0xFFFF) << 48;
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    asm volatile("ud2");
}

/* The timer's handler ends in `ret`: CS and RFLAGS stay on the stack, interrupts stay off, no second tick comes. */
void returns(void);
asm("returns: push %rax; mov $0x20, %al; out %al, $0x20; pop %rax; ret");

DEATH irq_ret_wait(void) {
    static uint64_t idt[512];
    interrupts_init();
    idt[2 * 32] = 0x00008E0000080000 | ((uint64_t)returns & 0xFFFF) | ((uint64_t)returns >> 16 & 0xFFFF) << 48;
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    pit_start(100);
    pic_unmask(0);
    sti();
    for (;;)
        pause();
}

/* The trap flag is set, and there is no handler of debug exceptions. */
DEATH single_step(void) {
    no_idt_at_all();
    asm volatile("pushf; orl $0x100, (%rsp); popf; nop; nop");
}

/* The timer is let in at a gate that is empty: #GP, whose handler, as all others, halts. */
void gives_up(void);
asm("gives_up: cli; 1: hlt; jmp 1b");

DEATH irq_gate_empty(void) {
    static uint64_t idt[512];
    interrupts_init();
    for (int vector = 0; vector < 32; vector++)
        idt[2 * vector] = 0x00008E0000080000 | ((uint64_t)gives_up & 0xFFFF) | ((uint64_t)gives_up >> 16 & 0xFFFF) << 48;
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    pit_start(100);
    pic_unmask(0);
    sti();
    for (;;)
        pause();
}

/* An interrupt, not an exception, and no IDT. */
DEATH interrupt_no_idt(void) {
    interrupts_init();
    pit_start(100);
    no_idt_at_all();
    sti();
    for (;;)
        pause();
}

/* A division by zero deep in some arithmetic, with nobody to handle it. */
static __attribute__((noipa, unused)) unsigned average(unsigned total, volatile unsigned *count) {
    return total / *count;
}

DEATH divide(void) {
    volatile unsigned nobody = 0;
    no_idt_at_all();
    printf("average: %u\n", average(100, &nobody));
}

/* Where gates lead by hand: to code that is no handler by the rules. */
static uint64_t own_idt[512] __attribute__((unused));

static __attribute__((unused)) void own_gate(int vector, void *handler) {
    uint64_t address = (uint64_t)handler;
    own_idt[2 * vector] = (address & 0xFFFF0000) << 32 | 0x00008E0000080000 | (address & 0xFFFF);
    own_idt[2 * vector + 1] = address >> 32;
}

static __attribute__((unused)) void load_own_idt(void) {
    lidt((struct table_register){sizeof own_idt - 1, (uint64_t)own_idt});
}

static volatile int own_ticks;

/* The timer's handler is a plain function of C: it ends in `ret`, and most of the frame stays on the stack. */
static __attribute__((noipa, unused)) void no_handler(void) {
    own_ticks++;
    pic_eoi(0);
}

static __attribute__((noipa, unused)) void wait_for_tick(void) { asm volatile("1: cmpl $0, %0; je 1b" : : "m"(own_ticks)); }

DEATH irq_ret(void) {
    interrupts_init();
    paging_identity();
    own_gate(IRQ0, no_handler);
    load_own_idt();
    pit_start(100);
    sti();
    wait_for_tick();
}

/* The PIC as firmware leaves it: IRQ 0 comes as interrupt 8, where the handler of #DF is. */
DEATH irq_not_remapped(void) {
    void *handler;
    asm volatile("lea 1f(%%rip), %0; jmp 2f; 1: push %%rax; pop %%rax; cli; hlt; 2:" : "=r"(handler));
    interrupts_init();
    outb(0x20, 0x11), outb(0x21, 8), outb(0x21, 4), outb(0x21, 1), outb(0x21, 0xFF);
    own_gate(8, handler);
    load_own_idt();
    pit_start(100);
    sti();
    for (;;)
        pause();
}

/* The same without a handler at interrupt 8. */
DEATH irq_no_gate(void) {
    interrupts_init();
    outb(0x20, 0x11), outb(0x21, 8), outb(0x21, 4), outb(0x21, 1), outb(0x21, 0xFF);
    load_own_idt();
    pit_start(100);
    sti();
    for (;;)
        pause();
}

/* The timer's interrupt is never acknowledged, and no second one comes. */
DEATH irq_no_eoi(void) {
    void *handler;
    asm volatile("lea 1f(%%rip), %0; jmp 2f; 1: iretq; 2:" : "=r"(handler));
    interrupts_init();
    own_gate(IRQ0, handler);
    load_own_idt();
    pit_start(100);
    sti();
    for (;;)
        asm volatile("hlt");
}

/* The handler of #PF returns, and its error code is still on the stack. */
DEATH error_code_left(void) {
    void *handler;
    asm volatile("lea 1f(%%rip), %0; jmp 2f; 1: iretq; 2:" : "=r"(handler));
    own_gate(PF, handler);
    load_own_idt();
    *(volatile int *)NOWHERE;
}

/* The local APIC's timer is let in at a gate that is empty. */
static __attribute__((unused)) void start_apic_timer(int vector) {
    interrupts_init();
    paging_identity();
    lapic_init();
    lapic_write(LAPIC_TIMER_DIVIDE, 3);
    lapic_write(LAPIC_LVT_TIMER, vector); /* it ticks once */
    lapic_write(LAPIC_TIMER_INITIAL, 1000000);
}

DEATH apic_no_gate(void) {
    start_apic_timer(0x40);
    load_own_idt();
    sti();
    for (;;)
        pause();
}

/* A second tick is waited for, but the timer was to tick once; and the first was never acknowledged. */
DEATH apic_no_eoi(void) {
    void *handler;
    asm volatile("lea 1f(%%rip), %0; jmp 2f; 1: iretq; 2:" : "=r"(handler));
    start_apic_timer(0x40);
    own_gate(0x40, handler);
    load_own_idt();
    sti();
    for (;;)
        asm volatile("hlt");
}

/* The handler of all exceptions raises one itself, and so on, until its stack has run over the page tables. */
void faults_again(void);
asm("faults_again: push %rax; movabs 0x700000000000, %rax; pop %rax; iretq");

static __attribute__((unused)) void own_exceptions(void *handler) {
    for (int vector = 0; vector < 32; vector++)
        own_gate(vector, handler);
    load_own_idt();
}

DEATH handler_faults(void) {
    paging_identity();
    own_exceptions(faults_again);
    asm volatile("ud2");
}

/* Gates of 8 bytes, as protected mode has them. */
DEATH idt_8_bytes(void) {
    uint64_t handler = (uint64_t)gives_up;
    paging_identity();
    for (int vector = 0; vector < 256; vector++)
        own_idt[vector] = (handler & 0xFFFF0000) << 32 | 0x00008E0000080000 | (handler & 0xFFFF);
    lidt((struct table_register){256 * 8 - 1, (uint64_t)own_idt});
    *(volatile int *)NOWHERE;
}

/* Gates that name the data segment. */
static __attribute__((unused)) void own_gates_in_data(void) {
    for (int vector = 0; vector < 256; vector++)
        own_idt[2 * vector] = (own_idt[2 * vector] & ~0xFFFF0000ull) | KERNEL_DS << 16;
}

DEATH gate_data(void) {
    own_exceptions(gives_up);
    own_gates_in_data();
    asm volatile("ud2");
}

DEATH irq_gate_data(void) {
    interrupts_init();
    own_gate(IRQ0, gives_up);
    own_gates_in_data();
    own_exceptions(gives_up);
    pit_start(100);
    sti();
    for (;;)
        pause();
}

/* CR3 is loaded with a virtual address: of 32 bits, and of 64. */
DEATH cr3_virtual(void) {
    no_idt_at_all();
    write_cr3(0xC0100000);
}

DEATH cr3_virtual64(void) {
    no_idt_at_all();
    write_cr3(0xFFFF800000100000);
}

/* A page table's entry is made of the page's number, not of its address. */
static uint64_t own_tables[2][512] __attribute__((aligned(PAGE), unused));

DEATH pte_shifted(void) {
    no_idt_at_all();
    own_tables[0][0] = (uint64_t)own_tables[1] / PAGE | PAGE_PRESENT | PAGE_WRITE;
    write_cr3((uint64_t)own_tables[0]);
}

/* A call through a null pointer, and a handler that gives up. */
DEATH null_call_halts(void) {
    void (*volatile function)(void) = NULL;
    paging_identity();
    own_exceptions(gives_up);
    function();
}

/* A string runs over the return address. */
static __attribute__((noipa, unused)) void copy_name(int length) {
    char name[16];
    volatile char *at = name;
    for (int i = 0; i < length; i++)
        at[i] = 'A';
}

DEATH smashed(void) {
    own_exceptions(gives_up);
    copy_name(64);
}

/* Ring 3 is entered without its ring in the selectors. */
DEATH iret_no_ring(void) {
    interrupts_init();
    own_exceptions(gives_up);
    asm volatile("push %0; push %1; push $2; push %2; push %3; iretq"
                 :
                 : "i"(USER_DS & ~3), "r"(user_page + PAGE), "i"(USER_CS & ~3), "r"(user_page));
}

/* The program's page is not ring 3's. */
DEATH user_page_kernels(void) {
    interrupts_init();
    own_exceptions(gives_up);
    paging_identity();
    set_kernel_stack((uint64_t)small_stack[1]);
    asm volatile("push %0; push %1; push $2; push %2; push %3; iretq"
                 :
                 : "i"(USER_DS), "r"(user_page + PAGE), "i"(USER_CS), "r"(user_page));
}

/* SYSCALL, and nobody has written LSTAR. */
DEATH syscall_no_lstar(void) {
    paging_identity();
    no_idt_at_all();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1); /* SCE */
    wrmsr(0xC0000081, 0x0013000800000000); /* STAR */
    asm volatile("syscall" : : : "rcx", "r11");
}

/* Data of this CPU is read by GS, which leads nowhere: SWAPGS was forgotten. */
DEATH swapgs_missing(void) {
    paging_identity();
    own_exceptions(gives_up);
    asm volatile("mov %%gs:8, %%rax" : : : "rax");
}

/* A jump to memory that is all zeros, which are executed up to the next bytes that are something else. */
DEATH into_zeros(void) {
    no_idt_at_all();
    small_stack[1][510] = 0x0F, small_stack[1][511] = 0x0B; /* ud2 */
    asm volatile("jmp *%0" : : "r"(small_stack[1]), "a"(small_stack[0]));
}

/* The stack pointer was set to a place in the code. */
DEATH stack_in_code(void) {
    own_exceptions(gives_up);
    asm volatile("lea 1f+32(%rip), %rsp; 1: .rept 16; push %rax; .endr");
}

/* Its trap flag is the guest's own, and it dies with that set. */
void steps_on(void);
asm("steps_on: iretq");

DEATH own_trap_flag(void) {
    own_gate(1, steps_on);
    load_own_idt();
    asm volatile("pushf; orl $0x100, (%%rsp); popf; nop; nop; mov %0, %%es" : : "r"(0x100));
}

/* No triple fault: the kernel's own handler gives up, prints, and halts with interrupts off. */
static __attribute__((unused)) void oops(struct frame *frame) {
    printf("oops: %s at rip 0x%lx, cr2 0x%lx\n", exception_name(frame->vector), frame->rip, read_cr2());
    halt();
}

DEATH panic_halt(void) {
    interrupts_init();
    set_handler(PF, oops);
    *(volatile int *)NOWHERE;
}

/* The same with a handler of one instruction. */
DEATH handler_halts(void) {
    static uint64_t idt[512];
    uint64_t handler;
    asm volatile("lea 1f(%%rip), %0; jmp 2f; 1: hlt; 2:" : "=r"(handler));
    for (int vector = 0; vector < 32; vector++) {
        idt[2 * vector] = (handler & 0xFFFF0000) << 32 | 0x00008E0000080000 | (handler & 0xFFFF);
        idt[2 * vector + 1] = handler >> 32;
    }
    lidt((struct table_register){sizeof idt - 1, (uint64_t)idt});
    asm volatile("ud2");
}

/* No death at all: an exception and interrupts came and were handled, the machine has nothing more to do. */
static __attribute__((unused)) void skip_ud2(struct frame *frame) { frame->rip += 2; }

static __attribute__((noipa, unused)) void wait_for_ticks(void) {
    asm volatile("ud2");
    sti();
    while (pit_ticks < 3)
        pause();
    cli();
}

static __attribute__((noipa, unused)) void halt_calmly(void) {
    uint8_t leftovers[512]; /* what the interrupts pushed is still there, and now in the live part of the stack */
    asm volatile("hlt" : : "r"(leftovers));
}

DEATH calm_halt(void) {
    interrupts_init();
    set_handler(UD, skip_ud2);
    pit_start(100);
    wait_for_ticks();
    halt_calmly();
}

/* No death on most machines. But some KVMs interpret ring 0, and their interpreter knows no SSE: the host is then told
 * of an emulation failure. */
DEATH sse(void) {
    write_cr0((read_cr0() & ~CR0_EM) | CR0_MP);
    write_cr4(read_cr4() | CR4_OSFXSR);
    asm volatile("xorps %xmm0, %xmm0");
    printf("sse: executed; this machine runs ring 0 on the CPU itself\n");
    poweroff();
}

/* Something to see in a backtrace. */
static __attribute__((noipa)) void load_driver(int device) {
    printf("driver %d: starting\n", device);
    WAY();
    printf("driver %d: still alive?\n", device);
}

static __attribute__((noipa)) void start_devices(void) {
    for (int device = 1; device < 2; device++)
        load_driver(device);
}

void main(void) {
    serial_init();
    printf("crash: about to die\n");
    start_devices();
}
