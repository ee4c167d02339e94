/*
 * The peer: the virtual machine that pykvm.Machine makes, by the same ioctls in the same order, in plain C.
 * Source: the kernel's Documentation/virt/kvm/api.rst. A call that fails ends the program: a peer that did less than
 * pykvm would be a dishonest one.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifndef RAM_SIZE
#define RAM_SIZE (128ul << 20) /* pykvm's default */
#endif
#define IDENTITY_MAP_ADDRESS 0xFEFFC000ul /* machine.IDENTITY_MAP_ADDRESS */
#define TSS_ADDRESS (IDENTITY_MAP_ADDRESS + 4096)
#define LAPIC_SVR 0xF0
#define CPUID_ROOM 128

static const char *program;

static _Noreturn void die(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", program, what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

static int must(int result, const char *what) {
    if (result < 0)
        die(what);
    return result;
}

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Time by step: `begin` once, then `step` after each. */
static struct {
    const char *name;
    int64_t ns;
} steps[40];
static int64_t last_step;

static void begin(void) { last_step = now(CLOCK_MONOTONIC); }

static void step(const char *name) {
    int64_t t = now(CLOCK_MONOTONIC);
    int at = 0;
    while (steps[at].name && strcmp(steps[at].name, name))
        at++;
    steps[at].name = name;
    steps[at].ns += t - last_step;
    last_step = now(CLOCK_MONOTONIC);
}

/* What lasts longer than a machine: pykvm opens /dev/kvm and asks for the CPUID leaves once a process. */
static int kvm, run_size;
static struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[CPUID_ROOM];
} cpuid;

static void open_kvm(void) {
    kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
    run_size = must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    cpuid.head.nent = CPUID_ROOM;
    must(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
}

/* Of the dirty ring of each vCPU made from now on; 0 for none. It is asked for before the first vCPU. */
static size_t ring_bytes;

struct vm {
    int fd, cpu, ram_fd;
    uint8_t *ram;
    struct kvm_run *run;
};

#define STEP(fd, request, argument)                                                                                    \
    do {                                                                                                               \
        must(ioctl(fd, request, argument), #request);                                                                  \
        step(#request);                                                                                                \
    } while (0)

/* The first 16 interrupts to the PICs, 24 to the IOAPIC, where the timer is on input 2. */
static void route_interrupts(int fd) {
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry entries[16 + 23];
    } table;
    memset(&table, 0, sizeof table);
    struct kvm_irq_routing_entry *entry = table.entries;
    for (int irq = 0; irq < 16; irq++)
        *entry++ = (struct kvm_irq_routing_entry){
            .gsi = irq, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = irq / 8, .pin = irq % 8}};
    for (int irq = 0; irq < 24; irq++)
        if (irq != 2)
            *entry++ = (struct kvm_irq_routing_entry){
                .gsi = irq, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = 2, .pin = irq ? irq : 2}};
    table.head.nr = entry - table.entries;
    STEP(fd, KVM_SET_GSI_ROUTING, &table);
}

/* RAM is the file `ram_fd`, mapped with the `sharing` MAP_SHARED or MAP_PRIVATE. */
static struct vm create_on(int ram_fd, int sharing) {
    struct vm vm = {.ram_fd = ram_fd};
    vm.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, sharing, vm.ram_fd, 0);
    if (vm.ram == MAP_FAILED)
        die("mmap");
    step("map RAM");
    while ((vm.fd = ioctl(kvm, KVM_CREATE_VM, 0)) < 0 && errno == EINTR)
        ;
    must(vm.fd, "KVM_CREATE_VM");
    step("KVM_CREATE_VM");
    STEP(kvm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
    struct kvm_enable_cap ring = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {ring_bytes}};
    if (ring_bytes)
        STEP(vm.fd, KVM_ENABLE_CAP, &ring);
    struct kvm_userspace_memory_region region = {.memory_size = RAM_SIZE, .userspace_addr = (uintptr_t)vm.ram};
    STEP(vm.fd, KVM_SET_USER_MEMORY_REGION, &region);
    STEP(vm.fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR);
    STEP(vm.fd, KVM_SET_TSS_ADDR, TSS_ADDRESS);
    uint64_t identity_map = IDENTITY_MAP_ADDRESS;
    STEP(vm.fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    STEP(vm.fd, KVM_CREATE_IRQCHIP, 0);
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    STEP(vm.fd, KVM_CREATE_PIT2, &pit);
    route_interrupts(vm.fd);
    vm.cpu = must(ioctl(vm.fd, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    step("KVM_CREATE_VCPU");
    vm.run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm.cpu, 0);
    if (vm.run == MAP_FAILED)
        die("mmap of the vCPU");
    step("map vCPU");
    struct kvm_lapic_state lapic;
    STEP(vm.cpu, KVM_GET_LAPIC, &lapic);
    lapic.regs[LAPIC_SVR] = (char)0xFF;
    lapic.regs[LAPIC_SVR + 1] = 1;
    STEP(vm.cpu, KVM_SET_LAPIC, &lapic);
    STEP(vm.cpu, KVM_SET_CPUID2, &cpuid);
    return vm;
}

static inline struct vm create(void) {
    int fd = must(memfd_create("ram", MFD_CLOEXEC), "memfd_create");
    must(ftruncate(fd, RAM_SIZE), "ftruncate");
    return create_on(fd, MAP_SHARED);
}

static void destroy(struct vm *vm) {
    munmap(vm->run, run_size);
    close(vm->cpu);
    step("close vCPU");
    close(vm->fd);
    step("close VM");
    munmap(vm->ram, RAM_SIZE);
    close(vm->ram_fd);
    step("close RAM");
}

static size_t read_file(const char *path, uint8_t *buffer, size_t room) {
    int fd = must(open(path, O_RDONLY), path);
    ssize_t size = read(fd, buffer, room);
    close(fd);
    if (size <= 0 || (size_t)size == room)
        die(path);
    return size;
}

static void set_registers(struct vm *vm, struct kvm_regs *regs) { STEP(vm->cpu, KVM_SET_REGS, regs); }

/* The value of a one-item output: it is at the exit's data offset, in the guest's byte order, which is ours. */
static inline uint32_t output(struct vm *vm) {
    uint32_t value = 0;
    memcpy(&value, (char *)vm->run + vm->run->io.data_offset, vm->run->io.size);
    return value;
}

static inline void answer(struct vm *vm, uint32_t value) {
    memcpy((char *)vm->run + vm->run->io.data_offset, &value, vm->run->io.size);
}
