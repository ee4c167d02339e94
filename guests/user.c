/* Ring 3: runs programs in pages of their own, catches what they do wrong, and reports it
 * (Intel SDM volume 3A, chapters 4, 5 and 6). */
#include "lib/lib.h"

uint64_t enter_user(uint64_t rip, uint64_t rsp); /* user_switch.S */
_Noreturn void leave_user(uint64_t value);

/* link.ld: the section .user is made to run at `user_start` and loaded at `user_physical`. */
extern char user_start[], user_end[], user_physical[];

/* user_programs.S */
extern char user_hello[], user_privileged[], user_port[], user_null[], user_kernel_write[], user_code_write[];
extern char user_undefined[], user_divide[], user_stack_execute[];

static const struct {
    const char *does;
    const char *program;
} programs[] = {
    {"says hello", user_hello},
    {"executes HLT", user_privileged},
    {"reads a port", user_port},
    {"reads address 0", user_null},
    {"writes to the kernel", user_kernel_write},
    {"writes to its code", user_code_write},
    {"executes UD2", user_undefined},
    {"divides by zero", user_divide},
    {"executes its stack", user_stack_execute},
};

#define STACK_PAGE 0x50000000ull
static uint8_t stack[PAGE] __attribute__((aligned(PAGE)));

enum { EXIT = 0, PRINT = 1 }; /* system calls */
static bool faulted;

/* Ring 3 is not to be believed: the string must lie in its own pages, to the last byte. */
static void print_for_user(const char *s) {
    for (; s >= user_start && s < user_end && *s; s++)
        printf("%c", *s);
}

static void on_breakpoint(struct frame *frame) {
    if (frame->cs != USER_CS)
        panic("#BP in the kernel, at rip 0x%lx", frame->rip);
    if (frame->rax == PRINT)
        print_for_user((const char *)frame->rdi);
    else
        leave_user(frame->rax);
}

static void on_fault(struct frame *frame) {
    if (frame->cs != USER_CS)
        panic("%s in the kernel, at rip 0x%lx", exception_name(frame->vector), frame->rip);
    printf("caught %s at rip 0x%lx, error code 0x%lx", exception_name(frame->vector), frame->rip, frame->error);
    if (frame->vector == PF)
        printf(", cr2 0x%lx: %s %s page", read_cr2(),
               frame->error & 0x10  ? "execution of"
               : frame->error & 0x2 ? "write to"
                                    : "read of",
               frame->error & 0x1 ? "a protected" : "an absent");
    printf("\n");
    faulted = true;
    leave_user(EXIT);
}

/* NX where the CPU has it: without EFER.NXE the bit is reserved, and its use a fault. */
static uint64_t no_execute(void) {
    if (cpuid(0x80000000, 0).eax < 0x80000001 || !(cpuid(0x80000001, 0).edx & 1 << 20))
        return 0;
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    return PAGE_NX;
}

void main(void) {
    int faults = 0;
    serial_init();
    interrupts_init();
    paging_identity();
    uint64_t nx = no_execute();
    for (char *page = user_start; page < user_end; page += PAGE)
        paging_map((uint64_t)page, (uint64_t)user_physical + (page - user_start), PAGE_USER);
    paging_map(STACK_PAGE, (uint64_t)stack, PAGE_USER | PAGE_WRITE | nx);

    for (int vector = 0; vector < IRQ0; vector++)
        set_handler(vector, on_fault);
    set_handler(BP, on_breakpoint);
    allow_from_user(BP);

    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        faulted = false;
        printf("program %lu %s: ", i + 1, programs[i].does);
        enter_user((uint64_t)programs[i].program, STACK_PAGE + PAGE);
        if (faulted)
            faults++;
        else
            printf("exited\n");
    }
    printf("user: %d faults caught\n", faults);
}
