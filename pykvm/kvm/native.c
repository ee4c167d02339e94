/*
 * One instruction of the guest's on the host's CPU: the vCPU's FPU and vector registers by XRSTOR and XSAVE, the general
 * registers but RSP as the guest has them, memory only where the caller points. A fault comes back as its vector.
 *
 * The caller vouches for the bytes: one instruction, no longer than 15 bytes, which neither branches nor uses RSP,
 * segments or any other memory than the operand that it was given.
 */
#include <cpuid.h>
#include <stddef.h>
#include <stdlib.h>
#include <ucontext.h>

#define PAGE 4096
#define SLOTS 64
#define SLOT_SIZE 64

#define X87_SSE 3
#define AVX_STATES 0xE4 /* AVX, and AVX-512's three */

struct pykvm_native {
    uint64_t registers[16]; /* by their numbers in instructions; that of RSP is not used */
    uint64_t flags;         /* RFLAGS: of these, the status flags go in and out */
    uint64_t code;
    uint64_t mask; /* of XSAVE's components; 0 if the instruction uses none of them */
    char *state;
    uint32_t mxcsr, control; /* the host's */
    int32_t vector;          /* of the exception that the instruction raised; -1 if none */
    uint32_t avx;            /* whether the host has it */
    char *slots, *operand;
    uint64_t state_size, size;
    uint8_t lengths[SLOTS];
};

int pykvm_native_enter(struct pykvm_native *native);
extern char pykvm_native_load[], pykvm_native_left[];

#define BAD_STATE 256 /* as a vector: XRSTOR does not take the state */

/* Offsets into struct pykvm_native, and the status flags CF PF AF ZF SF OF. */
_Static_assert(offsetof(struct pykvm_native, flags) == 128 && offsetof(struct pykvm_native, code) == 136
               && offsetof(struct pykvm_native, mask) == 144 && offsetof(struct pykvm_native, state) == 152
               && offsetof(struct pykvm_native, mxcsr) == 160 && offsetof(struct pykvm_native, control) == 164
               && offsetof(struct pykvm_native, avx) == 172, "the assembly below has the offsets as numbers");
#define STATUS_FLAGS 0x8D5

__asm__(
    ".text\n"
    ".hidden pykvm_native_load\n .globl pykvm_native_load\n"
    ".hidden pykvm_native_left\n .globl pykvm_native_left\n"
    ".hidden pykvm_native_enter\n .globl pykvm_native_enter\n"
    ".type pykvm_native_enter, @function\n"
    "pykvm_native_enter:\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "push %rdi\n" /* what the way back finds on the stack */
    "stmxcsr 160(%rdi)\n"
    "fnstcw 164(%rdi)\n"
    "mov 144(%rdi), %eax\n"
    "test %eax, %eax\n"
    "jz 1f\n"
    "xor %edx, %edx\n"
    "mov 152(%rdi), %rcx\n"
    "pykvm_native_load: xrstor64 (%rcx)\n"
    "1: mov 136(%rdi), %rax\n"
    "mov %rax, -16(%rsp)\n" /* in the red zone, which signals leave alone */
    "mov 128(%rdi), %rax\n"
    "and $0x8D5, %eax\n"
    "or $2, %eax\n"
    "mov %rax, -8(%rsp)\n"
    "lea -8(%rsp), %rsp\n"
    "popfq\n"
    "mov 0*8(%rdi), %rax\n mov 1*8(%rdi), %rcx\n mov 2*8(%rdi), %rdx\n mov 3*8(%rdi), %rbx\n"
    "mov 5*8(%rdi), %rbp\n mov 6*8(%rdi), %rsi\n"
    "mov 8*8(%rdi), %r8\n mov 9*8(%rdi), %r9\n mov 10*8(%rdi), %r10\n mov 11*8(%rdi), %r11\n"
    "mov 12*8(%rdi), %r12\n mov 13*8(%rdi), %r13\n mov 14*8(%rdi), %r14\n mov 15*8(%rdi), %r15\n"
    "mov 7*8(%rdi), %rdi\n"
    "jmp *-16(%rsp)\n"
    "pykvm_native_left:\n"
    "xchg %rdi, (%rsp)\n"
    "mov %rax, 0*8(%rdi)\n mov %rcx, 1*8(%rdi)\n mov %rdx, 2*8(%rdi)\n mov %rbx, 3*8(%rdi)\n"
    "mov %rbp, 5*8(%rdi)\n mov %rsi, 6*8(%rdi)\n"
    "mov %r8, 8*8(%rdi)\n mov %r9, 9*8(%rdi)\n mov %r10, 10*8(%rdi)\n mov %r11, 11*8(%rdi)\n"
    "mov %r12, 12*8(%rdi)\n mov %r13, 13*8(%rdi)\n mov %r14, 14*8(%rdi)\n mov %r15, 15*8(%rdi)\n"
    "pop %rax\n"
    "mov %rax, 7*8(%rdi)\n"
    "pushfq\n pop %rax\n"
    "mov %rax, 128(%rdi)\n"
    "cld\n"
    "mov 144(%rdi), %eax\n"
    "test %eax, %eax\n"
    "jz 2f\n"
    "xor %edx, %edx\n"
    "mov 152(%rdi), %rcx\n"
    "xsave64 (%rcx)\n"
    "fninit\n" /* drops an exception that is pending, too */
    "fldcw 164(%rdi)\n"
    "ldmxcsr 160(%rdi)\n"
    "cmpl $0, 172(%rdi)\n"
    "je 2f\n"
    "vzeroupper\n"
    "2: pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
    "xor %eax, %eax\n"
    "ret\n"
    ".size pykvm_native_enter, . - pykvm_native_enter\n");

static __thread struct pykvm_native *executing;

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction others[4]; /* who had these signals before */
static pthread_mutex_t handlers = PTHREAD_MUTEX_INITIALIZER;

/* An exception of the instruction ends it; any other is whose it was before. RSP is the host's all the time. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *at = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct pykvm_native *native = executing;

    if (native && ((uint64_t)at[REG_RIP] == native->code || at[REG_RIP] == (greg_t)(uintptr_t)pykvm_native_load)) {
        native->vector = (uint64_t)at[REG_RIP] == native->code ? at[REG_TRAPNO] : BAD_STATE;
        at[REG_RIP] = (greg_t)(uintptr_t)pykvm_native_left;
        return;
    }
    for (int i = 0; i < 4; i++) {
        if (fault_signals[i] != number)
            continue;
        if (others[i].sa_flags & SA_SIGINFO)
            others[i].sa_sigaction(number, info, context);
        else if (others[i].sa_handler != SIG_DFL && others[i].sa_handler != SIG_IGN)
            others[i].sa_handler(number);
        else
            signal(number, SIG_DFL); /* the instruction is executed again, and faults again */
    }
}

/* Be the first to hear of faults, whoever has asked for them since. */
static int take_signals(void)
{
    int result = 0;

    pthread_mutex_lock(&handlers);
    for (int i = 0; i < 4 && result == 0; i++) {
        struct sigaction now, ours;

        result = sigaction(fault_signals[i], 0, &now);
        if (result == 0 && !(now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_fault)) {
            others[i] = now;
            memset(&ours, 0, sizeof ours);
            ours.sa_sigaction = on_fault;
            ours.sa_flags = SA_SIGINFO | SA_NODEFER | (now.sa_flags & SA_ONSTACK);
            sigemptyset(&ours.sa_mask);
            result = sigaction(fault_signals[i], &ours, 0);
        }
    }
    pthread_mutex_unlock(&handlers);
    return result;
}

static uint64_t enabled_components(uint32_t *avx)
{
    uint32_t eax, ebx, ecx, edx;

    *avx = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & 1 << 27)) /* OSXSAVE */
        return 0;
    *avx = ecx >> 28 & 1;
    __asm__ volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    *avx = *avx && (eax & 6) == 6;
    return (uint64_t)edx << 32 | eax;
}

/* Of a page table's entry, which CPUs look at meanwhile. */
static void pykvm_set_bits(uint8_t *at, uint8_t bits)
{
    __atomic_fetch_or(at, bits, __ATOMIC_SEQ_CST);
}

static size_t pages(size_t size)
{
    return (size + PAGE - 1) / PAGE * PAGE;
}

/* One for each vCPU; `state_size` as of KVM_CAP_XSAVE2, or 0. NULL, with errno, if the host does not let it be made. */
static struct pykvm_native *pykvm_native_new(size_t state_size)
{
    size_t own = pages(sizeof(struct pykvm_native)), state = pages(state_size < PAGE ? PAGE : state_size);
    size_t size = own + SLOTS * SLOT_SIZE + state + 3 * PAGE;
    uint32_t avx;
    struct pykvm_native *native;

    if ((enabled_components(&avx) & X87_SSE) != X87_SSE) {
        errno = ENOSYS;
        return 0;
    }
    native = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (native == MAP_FAILED)
        return 0;
    native->size = size;
    native->slots = (char *)native + own;
    native->state = native->slots + SLOTS * SLOT_SIZE;
    native->state_size = state_size;
    native->operand = native->state + state;
    native->avx = avx;
    /* Behind the operand, of at most two pages, there is nothing. */
    if (mprotect(native->operand + 2 * PAGE, PAGE, PROT_NONE) < 0
        || mprotect(native->slots, SLOTS * SLOT_SIZE, PROT_READ | PROT_EXEC) < 0) {
        munmap(native, size);
        return 0;
    }
    return native;
}

static void pykvm_native_free(struct pykvm_native *native)
{
    munmap(native, native->size);
}

/* Put an instruction into a slot, with the way back behind it. */
static int place(struct pykvm_native *native, int slot, const uint8_t *code, int length)
{
    char *at = native->slots + slot * SLOT_SIZE;
    uint64_t back = (uintptr_t)pykvm_native_left;

    native->code = (uintptr_t)at;
    if (native->lengths[slot] == length && memcmp(at, code, length) == 0)
        return 0;
    if (mprotect(native->slots, SLOTS * SLOT_SIZE, PROT_READ | PROT_WRITE) < 0)
        return -1;
    memcpy(at, code, length);
    memcpy(at + length, "\xFF\x25\0\0\0\0", 6); /* jmp *0(%rip) */
    memcpy(at + length + 6, &back, 8);
    native->lengths[slot] = length;
    return mprotect(native->slots, SLOTS * SLOT_SIZE, PROT_READ | PROT_EXEC);
}

/*
 * Execute `code` in `slot` with what is in *native. The result is the vector of its exception, -1 for none, and -2, with
 * errno, if it could not be executed.
 */
static int pykvm_native_execute(struct pykvm_native *native, int slot, const uint8_t *code, int length)
{
    if (slot < 0 || slot >= SLOTS || length < 1 || length > 15) {
        errno = EINVAL;
        return -2;
    }
    if (place(native, slot, code, length) < 0 || take_signals() < 0)
        return -2;
    native->vector = -1;
    executing = native;
    pykvm_native_enter(native);
    executing = 0;
    if (native->vector == BAD_STATE) {
        errno = EFAULT;
        return -2;
    }
    return native->vector;
}

/*
 * An instruction, and what it uses. `code` are its bytes for the host, `next` how many it has in the guest. `base` is the
 * register that it finds its operand by, `stack` the one that stands for RSP, each -1 for none. `components` are those of
 * XSAVE that it uses; `opcode` is what the x87 keeps of it (SDM volume 1, 8.1.9), `rip_mask` the bits that RIP has.
 */
struct pykvm_instruction {
    uint8_t code[16];
    int32_t length, next, slot, base, stack;
    uint32_t opcode;
    uint64_t components, rip_mask;
};

/* Where struct kvm_regs has the registers, by their numbers in instructions. */
static const int places[16] = {0, 2, 3, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15};

/* The x87's pointers to the instruction and its operand are the guest's business, as are the addresses there. */
static void correct_pointers(struct pykvm_native *native, const struct pykvm_instruction *of, uint64_t rip,
                             const char *operand, uint64_t offset)
{
    uint64_t *instruction = (uint64_t *)(native->state + 8), *data = (uint64_t *)(native->state + 16);

    if (*instruction == native->code) {
        *instruction = rip;
        *(uint16_t *)(native->state + 6) = of->opcode;
        *data = of->base >= 0 ? offset : 0;
    } else if (*data == (uintptr_t)operand && operand) {
        *data = offset;
    }
}

/*
 * The next instruction of a vCPU whose registers are `regs`: they and the vCPU's state are changed as it changes them,
 * and RIP is behind it. With `run`, in which `regs` are, the next KVM_RUN takes the general registers from there. Its operand is at `operand` here, at `offset` in the guest's segment. The result is -1; after an
 * exception its vector, and nothing has changed but MXCSR at #XM (19); -2, with errno, if it could not be executed.
 */
static int pykvm_native_run(int fd, struct pykvm_native *native, struct kvm_run *run, struct kvm_regs *regs,
                            const struct pykvm_instruction *of, const char *operand, uint64_t offset)
{
    int large = native->state_size > sizeof(struct kvm_xsave), vector;
    uint64_t *header = (uint64_t *)(native->state + 512), others_in_use = 0, *values = (void *)regs;
    uint32_t avx;

    native->mask = 0;
    if (of->components) {
        if (ioctl(fd, large ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, native->state) < 0)
            return -2;
        native->mask = (of->components | (header[0] & AVX_STATES)) & enabled_components(&avx);
        others_in_use = header[0] & ~native->mask;
        header[0] &= native->mask;
        memset(header + 1, 0, 56); /* the standard format */
    }
    for (int i = 0; i < 16; i++)
        native->registers[i] = values[places[i]];
    if (of->stack >= 0)
        native->registers[of->stack] = regs->rsp;
    if (of->base >= 0)
        native->registers[of->base] = (uintptr_t)operand;
    native->flags = regs->rflags;
    vector = pykvm_native_execute(native, of->slot, of->code, of->length);
    if (vector == -2)
        return -2;
    if (of->components && (vector < 0 || vector == 19)) {
        correct_pointers(native, of, regs->rip, operand, offset);
        header[0] |= others_in_use | native->mask; /* XSAVE has stored all; the kernel takes MXCSR only of what is in use */
        if (ioctl(fd, KVM_SET_XSAVE, native->state) < 0)
            return -2;
    }
    if (vector >= 0)
        return vector;
    if (of->stack >= 0)
        regs->rsp = native->registers[of->stack];
    for (int i = 0; i < 16; i++)
        if (i != 4 && i != of->base && i != of->stack)
            values[places[i]] = native->registers[i];
    regs->rflags = (regs->rflags & ~(uint64_t)(STATUS_FLAGS | 1 << 16)) | (native->flags & STATUS_FLAGS); /* RF is off */
    regs->rip = (regs->rip + of->next) & of->rip_mask;
    if (run) {
        run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
        return -1;
    }
    return ioctl(fd, KVM_SET_REGS, regs) < 0 ? -2 : -1;
}
