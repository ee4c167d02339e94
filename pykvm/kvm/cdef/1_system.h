/* Documentation/virt/kvm/api.rst, section 4.1 ff.: the system descriptor, and what every descriptor can be asked. */
#define KVM_API_VERSION ...
#define KVM_GET_API_VERSION ...
#define KVM_CREATE_VM ...
#define KVM_CHECK_EXTENSION ...
#define KVM_GET_VCPU_MMAP_SIZE ...
#define KVM_GET_SUPPORTED_CPUID ...
#define KVM_GET_EMULATED_CPUID ...
#define KVM_GET_MSR_INDEX_LIST ...
#define KVM_GET_MSR_FEATURE_INDEX_LIST ...

struct kvm_cpuid_entry2 {
    uint32_t function, index, flags, eax, ebx, ecx, edx;
    ...;
};
struct kvm_cpuid2 {
    uint32_t nent;
    struct kvm_cpuid_entry2 entries[];
    ...;
};
struct kvm_msr_list {
    uint32_t nmsrs;
    uint32_t indices[];
};
struct kvm_msr_entry {
    uint32_t index;
    uint64_t data;
    ...;
};
struct kvm_msrs {
    uint32_t nmsrs;
    struct kvm_msr_entry entries[];
    ...;
};

#define KVM_CPUID_FLAG_SIGNIFCANT_INDEX ...

int pykvm_ioctl(int fd, unsigned long request, void *argument);
int pykvm_ioctl_int(int fd, unsigned long request, long argument);
int pykvm_ignore_signal(int number);
