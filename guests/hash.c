/* A computation whose result tells whether anything was lost on the way: memory and all general registers are mixed into
 * one number. Between the steps there are port accesses, each of them a place where a machine may be saved and go on
 * elsewhere. A snapshot that loses a register, a page or an answer from a port ends with another hash. */
#include "lib/lib.h"

enum { WORDS = 2048, STEPS = 24, SCRATCH_PORT = 0x3FF }; /* COM1's scratch register: reads back what was written */

static uint64_t memory[WORDS] __attribute__((aligned(4096)));

static uint64_t mix(uint64_t hash, uint64_t value) { return ((hash ^ value) * 0x9E3779B97F4A7C15ull << 7) | hash >> 57; }

/* Loads 13 registers from `values`, writes and reads a port, and stores the registers back with what the port said. */
static void through_registers(uint64_t values[14]) {
    asm volatile("push %%rbp\n\t"
                 "mov %%rdi, %%rbp\n\t"
                 "mov (%%rbp), %%rbx\n\t mov 8(%%rbp), %%rcx\n\t mov 16(%%rbp), %%rsi\n\t mov 24(%%rbp), %%rdi\n\t"
                 "mov 32(%%rbp), %%r8\n\t mov 40(%%rbp), %%r9\n\t mov 48(%%rbp), %%r10\n\t mov 56(%%rbp), %%r11\n\t"
                 "mov 64(%%rbp), %%r12\n\t mov 72(%%rbp), %%r13\n\t mov 80(%%rbp), %%r14\n\t mov 88(%%rbp), %%r15\n\t"
                 "mov 96(%%rbp), %%rax\n\t mov %[port], %%dx\n\t"
                 "out %%al, %%dx\n\t not %%rax\n\t in %%dx, %%al\n\t"
                 "mov %%rbx, (%%rbp)\n\t mov %%rcx, 8(%%rbp)\n\t mov %%rsi, 16(%%rbp)\n\t mov %%rdi, 24(%%rbp)\n\t"
                 "mov %%r8, 32(%%rbp)\n\t mov %%r9, 40(%%rbp)\n\t mov %%r10, 48(%%rbp)\n\t mov %%r11, 56(%%rbp)\n\t"
                 "mov %%r12, 64(%%rbp)\n\t mov %%r13, 72(%%rbp)\n\t mov %%r14, 80(%%rbp)\n\t mov %%r15, 88(%%rbp)\n\t"
                 "mov %%rax, 96(%%rbp)\n\t pushfq\n\t pop 104(%%rbp)\n\t"
                 "pop %%rbp"
                 : "+D"(values)
                 : [port] "i"(SCRATCH_PORT)
                 : "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory",
                   "cc");
}

int main(void) {
    uint64_t hash = 1, values[14];

    serial_init();
    printf("hashing\n");
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < 14; i++)
            values[i] = hash = mix(hash, step * 14 + i);
        through_registers(values);
        for (int i = 0; i < 14; i++)
            hash = mix(hash, values[i]);
        for (int i = step; i < WORDS; i += STEPS)
            memory[i] = hash = mix(hash, memory[(i * 7 + step) % WORDS]);
        if (step % 8 == 7)
            printf("step %d\n", step + 1);
    }
    for (int i = 0; i < WORDS; i++)
        hash = mix(hash, memory[i]);
    printf("hash: %lx\n", hash);
    poweroff();
}
