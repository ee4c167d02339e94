# Where the other CPUs wake up: real mode, at the page that the startup IPI named (Intel SDM volume 3A, section 8.4).
# smp.c copies this page below 1 MiB, so it must not rely on where it was linked: addresses are counted from AP_PAGE.

        .set    AP_PAGE, 0x8000
        .set    STACKS, 64
        .set    CR4_PAE, 1 << 5
        .set    CR0_PE_PG, 0x80000001
        .set    MSR_EFER, 0xC0000080
        .set    EFER_LME, 1 << 8

        .globl  trampoline, trampoline_end, trampoline_cr3, trampoline_cpus
        .balign 16
        .code16
trampoline:
        cli
        cld
        mov     %cs, %ax                # CS = AP_PAGE / 16: our data is at the same segment
        mov     %ax, %ds
        lgdtl   gdt_register - trampoline
        mov     $CR4_PAE, %eax
        mov     %eax, %cr4
        mov     trampoline_cr3 - trampoline, %eax
        mov     %eax, %cr3
        mov     $MSR_EFER, %ecx
        rdmsr
        or      $EFER_LME, %eax
        wrmsr
        # From real mode into long mode at once: protection and paging come with one write.
        mov     %cr0, %eax
        and     $0x9FFFFFFF, %eax       # INIT leaves the caches off (CD, NW)
        or      $CR0_PE_PG, %eax
        mov     %eax, %cr0
        ljmpl   $0x08, $(AP_PAGE + long_mode - trampoline)

        .code64
long_mode:
        mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        # Each CPU takes a number, and by it a stack.
        mov     $1, %edi
        lock xadd %edi, trampoline_cpus - trampoline + AP_PAGE
        cmp     $STACKS, %edi
        jae     2f
        lea     1(%rdi), %eax
        shl     $12, %eax               # 4 KiB each
        lea     ap_stacks(%rax), %rsp
        xor     %ebp, %ebp
        mov     $ap_main, %eax          # absolute: a relative call would count from where this was linked
        call    *%rax
2:      cli
        hlt
        jmp     2b

        .balign 8
gdt:    .quad   0
        .quad   0x00AF9B000000FFFF      # 64-bit code
        .quad   0x00CF93000000FFFF      # data
gdt_register:
        .word   . - gdt - 1
        .long   AP_PAGE + gdt - trampoline
        .balign 4
trampoline_cr3:
        .long   0
trampoline_cpus:
        .long   0                       # CPUs that have come here
trampoline_end:

        .bss
        .balign 4096
ap_stacks:
        .skip   STACKS * 4096

        .section .note.GNU-stack, "", @progbits
