/* One instruction of the guest's on the host's CPU: native.c. */
struct pykvm_native {
    uint64_t registers[16], flags, mask;
    char *state, *operand;
    ...;
};
struct pykvm_instruction {
    uint8_t code[16];
    int32_t length, next, slot, base, stack;
    uint32_t opcode;
    uint64_t components, rip_mask;
};
void pykvm_set_bits(uint8_t *at, uint8_t bits);
struct pykvm_native *pykvm_native_new(size_t state_size);
void pykvm_native_free(struct pykvm_native *native);
int pykvm_native_execute(struct pykvm_native *native, int slot, const uint8_t *code, int length);
int pykvm_native_run(int fd, struct pykvm_native *native, struct kvm_run *run, struct kvm_regs *regs,
                     const struct pykvm_instruction *of, const char *operand, uint64_t offset);
