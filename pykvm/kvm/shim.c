/* The few lines of C under pykvm.kvm: typed ioctls, and KVM_RUN with its commonest exit decoded. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <linux/kvm.h>

#ifndef KVM_EXIT_DIRTY_RING_FULL            /* headers before Linux 5.11: no kernel that they describe exits so */
#define KVM_EXIT_DIRTY_RING_FULL -1
#endif
#ifndef KVM_GUESTDBG_BLOCKIRQ               /* before 5.15: the flag does not exist, and 0 asks for nothing */
#define KVM_GUESTDBG_BLOCKIRQ 0
#endif
#ifndef KVM_GET_STATS_FD                    /* before 5.14: the capability says so */
#define KVM_GET_STATS_FD 0
#endif
#ifndef KVM_GET_XSAVE2                      /* before 5.17: no state is larger than struct kvm_xsave */
#define KVM_GET_XSAVE2 KVM_GET_XSAVE
#endif

static int pykvm_ioctl(int fd, unsigned long request, void *argument)
{
    return ioctl(fd, request, argument);
}

static int pykvm_ioctl_int(int fd, unsigned long request, long argument)
{
    return ioctl(fd, request, argument);
}

static void do_nothing(int number)
{
    (void)number;
}

/* A signal that only interrupts system calls: no SA_RESTART, and nothing for Python to run afterwards. */
static int pykvm_ignore_signal(int number)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = do_nothing;
    sigemptyset(&action.sa_mask);
    return sigaction(number, &action, 0);
}

/* Move an interrupt line without a structure to fill: it is done for many a byte of a serial port. */
static int pykvm_irq_line(int fd, uint32_t gsi, uint32_t level)
{
    struct kvm_irq_level line;

    line.irq = gsi;
    line.level = level;
    return ioctl(fd, KVM_IRQ_LINE, &line);
}

/* The parts of the chips' states, which lie in unions without a name. */
static struct kvm_pic_state *pykvm_pic(struct kvm_irqchip *chip)
{
    return &chip->chip.pic;
}

static struct kvm_ioapic_state *pykvm_ioapic(struct kvm_irqchip *chip)
{
    return &chip->chip.ioapic;
}

static uint64_t pykvm_redirection(struct kvm_irqchip *chip, int pin)
{
    return chip->chip.ioapic.redirtbl[pin].bits;
}

static struct kvm_pit_channel_state *pykvm_pit_channel(struct kvm_pit_state2 *pit, int number)
{
    return &pit->channels[number];
}

static uint32_t pykvm_system_event_type(struct kvm_run *run)
{
    return run->system_event.type;
}

/* The page that a vCPU shares with user space; NULL if it fails. Python's mmap would keep a copy of the descriptor. */
static struct kvm_run *pykvm_map_run(int fd, size_t size)
{
    void *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    return run == MAP_FAILED ? 0 : run;
}

static int pykvm_unmap_run(struct kvm_run *run, size_t size)
{
    return munmap(run, size);
}

/* Where an exit leaves the registers that run->kvm_valid_regs asks for (KVM_CAP_SYNC_REGS). */
static struct kvm_sync_regs *pykvm_shared_registers(struct kvm_run *run)
{
    return &run->s.regs;
}

/*
 * Until when (nanoseconds of CLOCK_MONOTONIC) no vCPU of this process enters the guest, but one that is to come out again
 * at once; 0 if nobody asks for that. Here and not in Python, where a hundred threads would have to wait for each other.
 */
static int64_t lull_end;

static void pykvm_lull(int64_t end)
{
    __atomic_store_n(&lull_end, end, __ATOMIC_SEQ_CST);
}

static void wait_for_lull(const struct kvm_run *run)
{
    int64_t end;

    while ((end = __atomic_load_n(&lull_end, __ATOMIC_SEQ_CST)) && !run->immediate_exit) {
        struct timespec now, until = {end / 1000000000, end % 1000000000};

        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec * 1000000000 + now.tv_nsec >= end)
            __atomic_compare_exchange_n(&lull_end, &end, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
        else
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0);
    }
}

/* KVM_RUN, after the lull if there is one. */
static int enter_guest(int fd, struct kvm_run *run)
{
    int result;

    do {
        if (__atomic_load_n(&lull_end, __ATOMIC_RELAXED))
            wait_for_lull(run);
        result = ioctl(fd, KVM_RUN, 0);
    } while (result < 0 && errno == EINTR && !run->immediate_exit && __atomic_load_n(&lull_end, __ATOMIC_RELAXED));
    return result;
}

/* Set in a result of pykvm_run that describes a port access in full. */
#define PYKVM_PIO (1LL << 52)

/*
 * Enter the guest. The result is one number, so that the caller decodes no structure on the hot path:
 *   < 0          -errno
 *   < PYKVM_PIO  run->exit_reason; the details are in *run
 *   else         one port access: bits 0-31 the value (output), 32-47 the port, 48-50 the size in bytes, 51 set for
 *                output. The answer to an input goes to the start of the PIO page: pykvm_run_input.
 */
static int64_t pykvm_run(int fd, struct kvm_run *run)
{
    if (enter_guest(fd, run) < 0)
        return -errno;
    if (run->exit_reason == KVM_EXIT_IO && run->io.count == 1 && run->io.data_offset == KVM_PIO_PAGE_OFFSET * 4096) {
        uint64_t out = run->io.direction == KVM_EXIT_IO_OUT;
        uint32_t value = 0;

        if (out)
            memcpy(&value, (char *)run + KVM_PIO_PAGE_OFFSET * 4096, run->io.size);
        return PYKVM_PIO | out << 51 | (int64_t)run->io.size << 48 | (int64_t)run->io.port << 32 | value;
    }
    return run->exit_reason;
}

/* Answer the port input that the last result described, and enter the guest again. */
static int64_t pykvm_run_input(int fd, struct kvm_run *run, uint32_t value)
{
    memcpy((char *)run + KVM_PIO_PAGE_OFFSET * 4096, &value, sizeof value);
    return pykvm_run(fd, run);
}

/*
 * Execute instruction by instruction up to the one with the number `end`, or to one that leaves the guest for another
 * reason: the result is as of pykvm_run. `*count` is the number of the next instruction; the registers before each are
 * kept in a ring of `slots`. KVM is asked for each step anew: it forgets a step when it interprets the instruction.
 */
struct pykvm_step {
    struct kvm_regs regs;
    struct kvm_sregs sregs;
};

static int64_t pykvm_steps(int fd, struct kvm_run *run, struct pykvm_step *ring, uint32_t slots, uint64_t *count,
                           uint64_t end)
{
    struct kvm_guest_debug debug;
    int64_t result = KVM_EXIT_DEBUG;

    memset(&debug, 0, sizeof debug);
    debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    while (*count < end && result == KVM_EXIT_DEBUG) {
        struct pykvm_step *now = &ring[*count % slots];

        if (ioctl(fd, KVM_GET_REGS, &now->regs) < 0 || ioctl(fd, KVM_GET_SREGS, &now->sregs) < 0
            || ioctl(fd, KVM_SET_GUEST_DEBUG, &debug) < 0)
            return -errno;
        result = pykvm_run(fd, run);
        if (result == KVM_EXIT_DEBUG)
            ++*count;
    }
    return result;
}

/*
 * Make `count` ioctls in order. The result is `count`, or the index of the first that failed, with errno. KVM_GET_MSRS
 * and KVM_SET_MSRS stop at an MSR they refuse and return its index: that is a failure here, too.
 */
struct pykvm_call {
    int fd;
    unsigned long request;
    void *argument;
};

static int pykvm_calls(const struct pykvm_call *calls, int count)
{
    for (int i = 0; i < count; i++) {
        int result = ioctl(calls[i].fd, calls[i].request, calls[i].argument);

        if (result < 0)
            return i;
        if ((calls[i].request == KVM_GET_MSRS || calls[i].request == KVM_SET_MSRS)
            && (uint32_t)result < ((struct kvm_msrs *)calls[i].argument)->nmsrs) {
            errno = EINVAL;
            return i;
        }
    }
    return count;
}

/*
 * Registers, mode and events that the next KVM_RUN takes out of the shared page (KVM_CAP_SYNC_REGS): no ioctl is made for
 * them. Until then the vCPU has the old ones: pykvm_flush, before anything else is asked or told.
 */
static void pykvm_defer(struct kvm_run *run, const struct kvm_regs *regs, const struct kvm_sregs *sregs,
                        const struct kvm_vcpu_events *events)
{
    run->s.regs.regs = *regs;
    run->s.regs.sregs = *sregs;
    run->s.regs.events = *events;
    run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
}

static int pykvm_flush(int fd, struct kvm_run *run)
{
    uint64_t dirty = run->kvm_dirty_regs;

    run->kvm_dirty_regs = 0;
    if (dirty & KVM_SYNC_X86_SREGS && ioctl(fd, KVM_SET_SREGS, &run->s.regs.sregs) < 0)
        return -1;
    if (dirty & KVM_SYNC_X86_REGS && ioctl(fd, KVM_SET_REGS, &run->s.regs.regs) < 0)
        return -1;
    return dirty & KVM_SYNC_X86_EVENTS ? ioctl(fd, KVM_SET_VCPU_EVENTS, &run->s.regs.events) : 0;
}

/*
 * Have KVM hand what its timers have for the local APIC over to it, without entering the guest: KVM_RUN does that on its
 * way out for a signal, and immediate_exit is too early a way out. `number` is a signal whose handler does nothing.
 */
static int pykvm_take_timers(int fd, struct kvm_run *run, int number)
{
    struct {
        struct kvm_signal_mask head;
        uint64_t set;
    } inside;
    sigset_t blocked, before;
    int immediate = run->immediate_exit, result, error;

    sigemptyset(&blocked);
    sigaddset(&blocked, number);
    if (pthread_sigmask(SIG_BLOCK, &blocked, &before))
        return -1;
    memset(&inside, 0, sizeof inside);
    inside.head.len = 8; /* the kernel's sigset_t; the C library's begins with it */
    memcpy(inside.head.sigset, &before, 8);
    inside.head.sigset[(number - 1) / 8] &= ~(1 << (number - 1) % 8);
    run->immediate_exit = 0;
    result = ioctl(fd, KVM_SET_SIGNAL_MASK, &inside);
    if (result == 0) {
        pthread_kill(pthread_self(), number); /* blocked until KVM_RUN */
        result = ioctl(fd, KVM_RUN, 0);
        error = errno;
        ioctl(fd, KVM_SET_SIGNAL_MASK, 0);
        errno = error;
    }
    run->immediate_exit = immediate;
    error = errno;
    pthread_sigmask(SIG_SETMASK, &before, 0);
    errno = error;
    return result < 0 && errno == EINTR ? 0 : -1;
}

/* A vCPU's distance in cycles from the host's TSC (KVM_VCPU_TSC_OFFSET, Linux 5.16). */
static int pykvm_tsc_offset(int fd, int64_t *offset, int set)
{
#ifdef KVM_VCPU_TSC_OFFSET
    struct kvm_device_attr attribute;

    memset(&attribute, 0, sizeof attribute);
    attribute.group = KVM_VCPU_TSC_CTRL;
    attribute.attr = KVM_VCPU_TSC_OFFSET;
    attribute.addr = (uintptr_t)offset;
    return ioctl(fd, set ? KVM_SET_DEVICE_ATTR : KVM_GET_DEVICE_ATTR, &attribute);
#else
    (void)fd, (void)offset, (void)set;
    errno = ENXIO;
    return -1;
#endif
}

/* Copy the pages of 4 KiB that are marked in `bitmap`, bit 0 of word 0 being the first; returns how many. */
static long pykvm_copy_pages(char *target, const char *source, const uint64_t *bitmap, size_t words)
{
    long copied = 0;

    for (size_t word = 0; word < words; word++)
        for (uint64_t bits = bitmap[word]; bits; bits &= bits - 1) {
            size_t at = (word * 64 + __builtin_ctzll(bits)) * 4096;

            memcpy(target + at, source + at, 4096);
            copied++;
        }
    return copied;
}

/* Fetch the dirty logs by `calls`, which fill `bitmap`, and copy what they mark; returns how many pages, or -1. */
static long pykvm_undo(const struct pykvm_call *calls, int count, char *target, const char *source,
                       const uint64_t *bitmap, size_t words)
{
    if (pykvm_calls(calls, count) < count)
        return -1;
    return pykvm_copy_pages(target, source, bitmap, words);
}
