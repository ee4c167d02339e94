/*
 * Serves a flat real-mode guest's port exits with as little as C can:  port_exit IMAGE
 *
 * The guest (bench_port_exit.py makes it) writes to MARK before and after the accesses that are timed, and to END.
 * Prints two numbers: wall-clock and thread CPU nanoseconds from mark to mark.
 */
#include "vm.h"

enum { LOAD = 0x7C00, LSR = 0x3FD, LSR_EMPTY = 0x60, MARK = 0xF1, END = 0xF4 };

static volatile uint8_t capture[4096]; /* what a serial port's capture costs at the least */

int main(int argc, char **argv) {
    int64_t wall[2], cpu[2];
    unsigned marks = 0, captured = 0;

    program = argv[0];
    if (argc != 2)
        return 2;
    begin();
    open_kvm();
    struct vm vm = create();
    read_file(argv[1], vm.ram + LOAD, 4096);
    struct kvm_sregs sregs;
    STEP(vm.cpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    STEP(vm.cpu, KVM_SET_SREGS, &sregs);
    set_registers(&vm, &(struct kvm_regs){.rip = LOAD, .rsp = LOAD, .rflags = 2});

    for (;;) {
        must(ioctl(vm.cpu, KVM_RUN, 0), "KVM_RUN");
        if (vm.run->exit_reason != KVM_EXIT_IO)
            die("the guest left by another exit than port I/O");
        switch (vm.run->io.port) {
        case MARK:
            if (marks == 2)
                die("a third mark");
            wall[marks] = now(CLOCK_MONOTONIC);
            cpu[marks++] = now(CLOCK_THREAD_CPUTIME_ID);
            break;
        case END:
            printf("%ld %ld\n", wall[1] - wall[0], cpu[1] - cpu[0]);
            destroy(&vm);
            return 0;
        default:
            if (vm.run->io.direction == KVM_EXIT_IO_IN)
                answer(&vm, vm.run->io.port == LSR ? LSR_EMPTY : ~0u);
            else
                capture[captured++ % sizeof capture] = output(&vm);
        }
    }
}
