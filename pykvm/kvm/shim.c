/* The few lines of C under pykvm.kvm: typed ioctls, and KVM_RUN with its commonest exit decoded. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

#ifndef KVM_EXIT_DIRTY_RING_FULL            /* headers before Linux 5.11: no kernel that they describe exits so */
#define KVM_EXIT_DIRTY_RING_FULL -1
#endif
#ifndef KVM_GUESTDBG_BLOCKIRQ               /* before 5.15: the flag does not exist, and 0 asks for nothing */
#define KVM_GUESTDBG_BLOCKIRQ 0
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

static uint32_t pykvm_system_event_type(struct kvm_run *run)
{
    return run->system_event.type;
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
    if (ioctl(fd, KVM_RUN, 0) < 0)
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
