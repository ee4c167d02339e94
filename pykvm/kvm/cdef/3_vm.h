/* api.rst, calls on a VM descriptor: capabilities, interrupt chips, timers, event descriptors, MSR filter. */
#define KVM_ENABLE_CAP ...
#define KVM_CREATE_VCPU ...
#define KVM_CREATE_IRQCHIP ...
#define KVM_GET_IRQCHIP ...
#define KVM_SET_IRQCHIP ...
#define KVM_CREATE_PIT2 ...
#define KVM_GET_PIT2 ...
#define KVM_SET_PIT2 ...
#define KVM_IRQ_LINE ...
#define KVM_SIGNAL_MSI ...
#define KVM_SET_GSI_ROUTING ...
#define KVM_IRQFD ...
#define KVM_IOEVENTFD ...
#define KVM_GET_CLOCK ...
#define KVM_SET_CLOCK ...
#define KVM_SET_BOOT_CPU_ID ...
#define KVM_X86_SET_MSR_FILTER ...
#define KVM_REINJECT_CONTROL ...

#define KVM_IRQCHIP_PIC_MASTER ...
#define KVM_IRQCHIP_PIC_SLAVE ...
#define KVM_IRQCHIP_IOAPIC ...
#define KVM_IRQ_ROUTING_IRQCHIP ...
#define KVM_IRQ_ROUTING_MSI ...
#define KVM_IRQFD_FLAG_DEASSIGN ...
#define KVM_IRQFD_FLAG_RESAMPLE ...
#define KVM_IOEVENTFD_FLAG_DATAMATCH ...
#define KVM_IOEVENTFD_FLAG_PIO ...
#define KVM_IOEVENTFD_FLAG_DEASSIGN ...
#define KVM_PIT_SPEAKER_DUMMY ...
#define KVM_MSR_FILTER_READ ...
#define KVM_MSR_FILTER_WRITE ...
#define KVM_MSR_FILTER_DEFAULT_ALLOW ...
#define KVM_MSR_FILTER_DEFAULT_DENY ...
#define KVM_MSR_FILTER_MAX_RANGES ...
#define KVM_MSR_EXIT_REASON_INVAL ...
#define KVM_MSR_EXIT_REASON_UNKNOWN ...
#define KVM_MSR_EXIT_REASON_FILTER ...

struct kvm_enable_cap {
    uint32_t cap, flags;
    unsigned long long args[4];
    ...;
};
struct kvm_irqchip {
    uint32_t chip_id;
    ...;
};
struct kvm_pit_config {
    uint32_t flags;
    ...;
};
struct kvm_pit_state2 { ...; };
struct kvm_pic_state {
    uint8_t irr, imr, isr, irq_base, init_state, auto_eoi, elcr;
    ...;
};
struct kvm_ioapic_state {
    uint64_t base_address;
    uint32_t ioregsel, id, irr;
    ...;
};
struct kvm_pit_channel_state {
    uint32_t count;
    uint8_t mode, bcd, gate;
    ...;
};
struct kvm_pic_state *pykvm_pic(struct kvm_irqchip *chip);
struct kvm_ioapic_state *pykvm_ioapic(struct kvm_irqchip *chip);
uint64_t pykvm_redirection(struct kvm_irqchip *chip, int pin);
struct kvm_pit_channel_state *pykvm_pit_channel(struct kvm_pit_state2 *pit, int number);
struct kvm_irq_level {
    uint32_t irq;
    uint32_t level;
    ...;
};
int pykvm_irq_line(int fd, uint32_t gsi, uint32_t level);
struct kvm_msi {
    uint32_t address_lo, address_hi, data, flags;
    ...;
};
struct kvm_irq_routing_irqchip {
    uint32_t irqchip, pin;
};
struct kvm_irq_routing_msi {
    uint32_t address_lo, address_hi, data, pad;
};
struct kvm_irq_routing_entry {
    uint32_t gsi, type, flags;
    union {
        struct kvm_irq_routing_irqchip irqchip;
        struct kvm_irq_routing_msi msi;
        uint32_t pad[8];
    } u;
    ...;
};
struct kvm_irq_routing {
    uint32_t nr, flags;
    struct kvm_irq_routing_entry entries[];
};
struct kvm_irqfd {
    uint32_t fd, gsi, flags, resamplefd;
    ...;
};
struct kvm_ioeventfd {
    uint64_t datamatch, addr;
    uint32_t len;
    int32_t fd;
    uint32_t flags;
    ...;
};
struct kvm_clock_data {
    uint64_t clock;
    uint32_t flags;
    ...;
};
struct kvm_msr_filter_range {
    uint32_t flags, nmsrs, base;
    uint8_t *bitmap;
    ...;
};
struct kvm_msr_filter {
    uint32_t flags;
    struct kvm_msr_filter_range ranges[...];
    ...;
};
