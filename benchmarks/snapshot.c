/*
 * The peer of pykvm's snapshots: the same ioctls, the same copying, in plain C.
 *
 *   snapshot reset LOG MIB COUNT CODE    goes back COUNT times to the state before the flat 32-bit program CODE, each time
 *                                        after it has run up to its first port access; LOG is how dirty pages are told:
                                        log, which cleans itself; clear: cleaned apart; kept: never cleaned; ring
 *   snapshot restore FILE MIB COUNT      COUNT times maps FILE as RAM, makes a machine, puts a state onto it and enters
 *                                        the guest at 1 MiB, up to its first port access
 *
 * Prints "NAME NS" for each step, summed over COUNT.
 */
#define RAM_SIZE ram_size
static unsigned long ram_size;
#include "vm.h"

enum { ENTRY = 0x100000, MSRS = 512, RING = 4096 };
enum { GENERAL = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS };

struct msrs {
    struct kvm_msrs head;
    struct kvm_msr_entry entries[MSRS];
};

struct state {
    struct kvm_irqchip chips[3];
    struct kvm_pit_state2 pit;
    struct kvm_clock_data clock;
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    struct kvm_xcrs xcrs;
    struct kvm_mp_state running;
    struct kvm_lapic_state lapic;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct msrs msrs;
    char xsave[1 << 16];
};

static struct state saved;

/* The MSRs that KVM names and the MTRRs, which it does not, as far as they can be read and set; without the TSC. */
static void take_msrs(struct vm *vm, struct msrs *msrs) {
    static struct {
        struct kvm_msr_list head;
        uint32_t more[MSRS];
    } list = {.head.nmsrs = MSRS - 32};
    must(ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &list), "KVM_GET_MSR_INDEX_LIST");
    static const uint32_t fixed[] = {0x250, 0x258, 0x259, 0x2FF};
    for (int at = 0; at < 4; at++)
        list.head.indices[list.head.nmsrs++] = fixed[at];
    for (int at = 0; at < 8; at++)
        list.head.indices[list.head.nmsrs++] = 0x268 + at;
    for (int at = 0; at < 16; at++)
        list.head.indices[list.head.nmsrs++] = 0x200 + at;
    for (unsigned at = 0; at < list.head.nmsrs; at++) {
        struct msrs one = {.head.nmsrs = 1, .entries[0].index = list.head.indices[at]};
        if (list.head.indices[at] == 0x10 || ioctl(vm->cpu, KVM_GET_MSRS, &one) != 1 ||
            ioctl(vm->cpu, KVM_SET_MSRS, &one) != 1)
            continue;
        msrs->entries[msrs->head.nmsrs++] = one.entries[0];
    }
}

static void take(struct vm *vm, struct state *state) {
    for (int at = 0; at < 3; at++) {
        state->chips[at].chip_id = at;
        must(ioctl(vm->fd, KVM_GET_IRQCHIP, &state->chips[at]), "KVM_GET_IRQCHIP");
    }
    must(ioctl(vm->fd, KVM_GET_PIT2, &state->pit), "KVM_GET_PIT2");
    must(ioctl(vm->fd, KVM_GET_CLOCK, &state->clock), "KVM_GET_CLOCK");
    state->clock.flags = 0;
    must(ioctl(vm->cpu, KVM_GET_SREGS, &state->sregs), "KVM_GET_SREGS");
    must(ioctl(vm->cpu, KVM_GET_REGS, &state->regs), "KVM_GET_REGS");
    must(ioctl(vm->cpu, KVM_GET_XCRS, &state->xcrs), "KVM_GET_XCRS");
    must(ioctl(vm->cpu, KVM_GET_XSAVE, state->xsave), "KVM_GET_XSAVE");
    must(ioctl(vm->cpu, KVM_GET_MP_STATE, &state->running), "KVM_GET_MP_STATE");
    must(ioctl(vm->cpu, KVM_GET_LAPIC, &state->lapic), "KVM_GET_LAPIC");
    must(ioctl(vm->cpu, KVM_GET_VCPU_EVENTS, &state->events), "KVM_GET_VCPU_EVENTS");
    must(ioctl(vm->cpu, KVM_GET_DEBUGREGS, &state->debug), "KVM_GET_DEBUGREGS");
    take_msrs(vm, &state->msrs);
}

/* `whole`, or only what a vCPU needs that is running, with the rest left to the next KVM_RUN in the shared page. */
static void put_back(struct vm *vm, struct state *state, int whole) {
    for (int at = 0; at < 3; at++)
        must(ioctl(vm->fd, KVM_SET_IRQCHIP, &state->chips[at]), "KVM_SET_IRQCHIP");
    must(ioctl(vm->fd, KVM_SET_PIT2, &state->pit), "KVM_SET_PIT2");
    must(ioctl(vm->fd, KVM_SET_CLOCK, &state->clock), "KVM_SET_CLOCK");
    if (whole)
        must(ioctl(vm->cpu, KVM_SET_SREGS, &state->sregs), "KVM_SET_SREGS");
    must(ioctl(vm->cpu, KVM_SET_XCRS, &state->xcrs), "KVM_SET_XCRS");
    must(ioctl(vm->cpu, KVM_SET_XSAVE, state->xsave), "KVM_SET_XSAVE");
    must(ioctl(vm->cpu, KVM_SET_MSRS, &state->msrs), "KVM_SET_MSRS");
    if (whole) {
        must(ioctl(vm->cpu, KVM_SET_REGS, &state->regs), "KVM_SET_REGS");
        must(ioctl(vm->cpu, KVM_SET_MP_STATE, &state->running), "KVM_SET_MP_STATE");
    }
    must(ioctl(vm->cpu, KVM_SET_LAPIC, &state->lapic), "KVM_SET_LAPIC");
    if (whole)
        must(ioctl(vm->cpu, KVM_SET_VCPU_EVENTS, &state->events), "KVM_SET_VCPU_EVENTS");
    must(ioctl(vm->cpu, KVM_SET_DEBUGREGS, &state->debug), "KVM_SET_DEBUGREGS");
    if (!whole) {
        vm->run->s.regs.regs = state->regs;
        vm->run->s.regs.sregs = state->sregs;
        vm->run->s.regs.events = state->events;
        vm->run->kvm_dirty_regs = GENERAL;
    }
}

static void enter_flat_mode(struct vm *vm) {
    struct kvm_sregs sregs;
    must(ioctl(vm->cpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .db = 1, .g = 1};
    struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 |= 1;
    must(ioctl(vm->cpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    set_registers(vm, &(struct kvm_regs){.rip = ENTRY, .rflags = 2});
}

static void run_to_port(struct vm *vm) {
    must(ioctl(vm->cpu, KVM_RUN, 0), "KVM_RUN");
    if (vm->run->exit_reason != KVM_EXIT_IO)
        die("the guest left by another exit than port I/O");
}

static void copy_page(struct vm *vm, const uint8_t *source, size_t page) {
    memcpy(vm->ram + page * 4096, source + page * 4096, 4096);
}

static void undo_log(struct vm *vm, const uint8_t *source, uint64_t *bitmap, int clear) {
    struct kvm_dirty_log log = {.dirty_bitmap = bitmap};
    must(ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log), "KVM_GET_DIRTY_LOG");
    for (size_t word = 0; word < ram_size >> 18; word++)
        for (uint64_t bits = bitmap[word]; bits; bits &= bits - 1)
            copy_page(vm, source, word * 64 + __builtin_ctzll(bits));
    struct kvm_clear_dirty_log now_clean = {.num_pages = ram_size >> 12, .dirty_bitmap = bitmap};
    if (clear)
        must(ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &now_clean), "KVM_CLEAR_DIRTY_LOG");
}

static void undo_ring(struct vm *vm, const uint8_t *source, struct kvm_dirty_gfn *ring) {
    static unsigned next;
    for (; ring[next % RING].flags & KVM_DIRTY_GFN_F_DIRTY; next++) {
        copy_page(vm, source, ring[next % RING].offset);
        ring[next % RING].flags = KVM_DIRTY_GFN_F_RESET;
    }
    must(ioctl(vm->fd, KVM_RESET_DIRTY_RINGS, 0), "KVM_RESET_DIRTY_RINGS");
}

static void reset(const char *log, int count, const char *code) {
    uint8_t *source = calloc(ram_size, 1);
    uint64_t *bitmap = calloc(ram_size >> 18, 8);
    struct kvm_dirty_gfn *ring = NULL;
    int clear = !strcmp(log, "clear"), kept = !strcmp(log, "kept");
    struct kvm_enable_cap apart = {.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = {1}};
    if (!strcmp(log, "ring"))
        ring_bytes = RING * sizeof *ring;
    struct vm vm = create();
    if (ring_bytes) {
        ring = mmap(NULL, ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm.cpu, KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
        if (ring == MAP_FAILED)
            die("mmap of the ring");
    }
    if (clear || kept)
        must(ioctl(vm.fd, KVM_ENABLE_CAP, &apart), "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
    struct kvm_userspace_memory_region region = {
        .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = ram_size, .userspace_addr = (uintptr_t)vm.ram};
    must(ioctl(vm.fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    read_file(code, vm.ram + ENTRY, 4096);
    enter_flat_mode(&vm);
    memcpy(source, vm.ram, ram_size);
    take(&vm, &saved);
    memset(steps, 0, sizeof steps);
    for (int at = 0; at < count; at++) {
        begin();
        run_to_port(&vm);
        step("run");
        if (ring)
            undo_ring(&vm, source, ring);
        else
            undo_log(&vm, source, bitmap, clear);
        step("pages");
        put_back(&vm, &saved, 0);
        step("state");
    }
}

static void restore(const char *path, int count) {
    struct vm first = create_on(must(open(path, O_RDONLY | O_CLOEXEC), path), MAP_PRIVATE);
    enter_flat_mode(&first);
    take(&first, &saved);
    destroy(&first);
    memset(steps, 0, sizeof steps);
    for (int at = 0; at < count; at++) {
        begin();
        struct vm vm = create_on(must(open(path, O_RDONLY | O_CLOEXEC), path), MAP_PRIVATE);
        put_back(&vm, &saved, 1);
        step("put back");
        run_to_port(&vm);
        step("first exit");
        destroy(&vm);
    }
}

int main(int argc, char **argv) {
    program = argv[0];
    if (argc < 5)
        return 2;
    ram_size = strtoul(argv[3], NULL, 0) << 20;
    open_kvm();
    if (!strcmp(argv[1], "reset") && argc == 6)
        reset(argv[2], atoi(argv[4]), argv[5]);
    else
        restore(argv[2], atoi(argv[4]));
    for (int at = 0; steps[at].name; at++)
        printf("%s %ld\n", steps[at].name, steps[at].ns);
    return 0;
}
