# Dies in real mode: the interrupt table (IVT) has no room for a single entry when the division by zero comes.

        .code16
        .globl  _start
_start:
        xor     %ax, %ax
        mov     %ax, %ds
        lidtw   no_table
        call    ratio
        hlt

ratio:
        mov     $100, %ax
        xor     %cx, %cx
        div     %cx
        ret

no_table:
        .word   0                       # limit
        .long   0                       # base

        .org    510
        .word   0xAA55
