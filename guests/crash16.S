# Dies on the way out of real mode, as many a first boot sector does: protected mode is on, but the GDT has no entry
# for the far jump that is to load CS. And the real-mode interrupt table, all zeros, is no IDT: the #GP is the end.

        .code16
        .globl  _start
_start:
        cli
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7C00, %sp
        call    enter_protected_mode
        hlt

enter_protected_mode:
        lgdtw   no_table
        mov     %cr0, %eax
        or      $1, %eax
        mov     %eax, %cr0
        ljmpl   $0x08, $protected_mode

        .code32
protected_mode:
        hlt

no_table:
        .word   0                       # limit
        .long   0                       # base

        .org    510
        .word   0xAA55
