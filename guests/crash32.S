# Dies in 32-bit protected mode: a selector that lies beyond the GDT is #GP, and there is no IDT to deliver it by.

        .text
        .globl  _start
        .type   _start, @function
_start:
        mov     $stack_top, %esp
        xor     %ebp, %ebp
        lidt    no_table
        call    load_segment
        hlt
        .size   _start, . - _start

        .type   load_segment, @function
load_segment:
        push    %ebp
        mov     %esp, %ebp
        mov     $0xFFF8, %eax
        mov     %eax, %ds
        pop     %ebp
        ret
        .size   load_segment, . - load_segment

        .section .rodata
no_table:
        .word   0                       # limit
        .long   0                       # base

        .bss
        .balign 16
        .skip   4096
stack_top:

        .section .note.GNU-stack, "", @progbits
