# Dies on a far jump in 32-bit protected mode: `lgdt` was given a base of 0, and there is no entry 8 there.

        .text
        .globl  _start
        .type   _start, @function
_start:
        mov     $stack_top, %esp
        xor     %ebp, %ebp
        lidt    no_table
        call    load_table
        hlt
        .size   _start, . - _start

        .type   load_table, @function
load_table:
        push    %ebp
        mov     %esp, %ebp
        lgdt    forgotten
        ljmp    $0x08, $1f
1:      pop     %ebp
        ret
        .size   load_table, . - load_table

        .section .rodata
no_table:
        .word   0                       # limit
        .long   0                       # base
forgotten:
        .word   23
        .long   0

        .bss
        .balign 16
        .skip   4096
stack_top:

        .section .note.GNU-stack, "", @progbits
