/*
 * Makes a machine, runs a 64-bit ELF guest in it until it powers the machine off, and closes it:  create IMAGE COUNT
 *
 * Prints "NAME NS" for each step, summed over COUNT machines, and "exits N". The guest's output goes to stdout if COUNT
 * is 0, which means one machine, silently timed: that is the peer of a whole process.
 */
#include "vm.h"
#include <elf.h>

enum { LSR = 0x3FD, LSR_EMPTY = 0x60, THR = 0x3F8, PM1A_CONTROL = 0x604, SLEEP_ENABLE = 1 << 13 };
enum { STACK_TOP = 0x14000, GDT = 0x14000, TABLES = 0x15000 }; /* where pykvm.boot puts them */
enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80, PAGE = 4096 };

static uint8_t image[1 << 20];
static char line[4096];
static unsigned printed, exits;

/* The first 4 GiB to themselves, in pages of 2 MiB. */
static void identity_map(uint8_t *ram) {
    uint64_t *pml4 = (uint64_t *)(ram + TABLES), *pdpt = pml4 + 512, *pd = pdpt + 512;
    pml4[0] = (TABLES + PAGE) | PRESENT | WRITABLE;
    for (int gib = 0; gib < 4; gib++)
        pdpt[gib] = (TABLES + (2 + gib) * PAGE) | PRESENT | WRITABLE;
    for (uint64_t at = 0; at < 4 * 512; at++)
        pd[at] = at << 21 | PRESENT | WRITABLE | LARGE;
}

static uint64_t load(const char *path, uint8_t *ram) {
    size_t size = read_file(path, image, sizeof image);
    Elf64_Ehdr *header = (Elf64_Ehdr *)image;
    if (memcmp(image, ELFMAG, SELFMAG) || header->e_machine != EM_X86_64)
        die("the image is no 64-bit ELF file");
    for (int at = 0; at < header->e_phnum; at++) {
        Elf64_Phdr *segment = (Elf64_Phdr *)(image + header->e_phoff) + at;
        if (segment->p_type != PT_LOAD)
            continue;
        if (segment->p_offset + segment->p_filesz > size || segment->p_paddr + segment->p_memsz > RAM_SIZE)
            die("a segment is outside the file or RAM");
        memcpy(ram + segment->p_paddr, image + segment->p_offset, segment->p_filesz);
    }
    static const uint64_t gdt[3] = {0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF};
    memcpy(ram + GDT, gdt, sizeof gdt);
    identity_map(ram);
    return header->e_entry;
}

static void enter_long_mode(struct vm *vm, uint64_t entry) {
    set_registers(vm, &(struct kvm_regs){.rip = entry, .rsp = STACK_TOP, .rflags = 2});
    struct kvm_sregs sregs;
    STEP(vm->cpu, KVM_GET_SREGS, &sregs);
    struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.gdt = (struct kvm_dtable){.base = GDT, .limit = 23};
    sregs.idt = (struct kvm_dtable){0};
    sregs.cr0 = 0x80000033;
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x620;
    sregs.efer = 0x500;
    STEP(vm->cpu, KVM_SET_SREGS, &sregs);
}

static void run(struct vm *vm) {
    for (;;) {
        must(ioctl(vm->cpu, KVM_RUN, 0), "KVM_RUN");
        exits++;
        if (vm->run->exit_reason != KVM_EXIT_IO)
            die("the guest left by another exit than port I/O");
        if (vm->run->io.direction == KVM_EXIT_IO_IN)
            answer(vm, vm->run->io.port == LSR ? LSR_EMPTY : 0);
        else if (vm->run->io.port == THR && printed < sizeof line)
            line[printed++] = output(vm);
        else if (vm->run->io.port == PM1A_CONTROL && output(vm) & SLEEP_ENABLE)
            return;
    }
}

int main(int argc, char **argv) {
    program = argv[0];
    if (argc != 3)
        return 2;
    int count = atoi(argv[2]);
    open_kvm();
    for (int at = 0; at < (count ? count : 1); at++) {
        printed = 0;
        begin();
        struct vm vm = create();
        uint64_t entry = load(argv[1], vm.ram);
        step("load the image");
        enter_long_mode(&vm, entry);
        run(&vm);
        step("run");
        destroy(&vm);
    }
    if (!count)
        return fwrite(line, 1, printed, stdout) != printed;
    for (int at = 0; steps[at].name; at++)
        printf("%s %ld\n", steps[at].name, steps[at].ns);
    printf("exits %u\n", exits);
    return 0;
}
