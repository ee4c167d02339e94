/* Whole states at once: what api.rst describes call by call, made in one go, and the pages that go with it. */
struct pykvm_call {
    int fd;
    unsigned long request;
    void *argument;
};
int pykvm_calls(const struct pykvm_call *calls, int count);
int pykvm_take_timers(int fd, struct kvm_run *run, int number);
int pykvm_tsc_offset(int fd, int64_t *offset, int set);
void pykvm_defer(struct kvm_run *run, const struct kvm_regs *regs, const struct kvm_sregs *sregs,
                 const struct kvm_vcpu_events *events);
int pykvm_flush(int fd, struct kvm_run *run);
long pykvm_copy_pages(char *target, const char *source, const uint64_t *bitmap, size_t words);
long pykvm_undo(const struct pykvm_call *calls, int count, char *target, const char *source, const uint64_t *bitmap,
                size_t words);
