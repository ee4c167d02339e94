/* Single steps, with the registers kept: shim.c. */
struct pykvm_step { struct kvm_regs regs; struct kvm_sregs sregs; };
int64_t pykvm_steps(int fd, struct kvm_run *run, struct pykvm_step *ring, uint32_t slots, uint64_t *count, uint64_t end);
