# Interrupts are let in before there is an IDT: the timer runs since the firmware's days, and its IRQ 0 comes as vector 8.
        .section .multiboot, "a"
        .balign 4
        .long   0x1BADB002, 0, -0x1BADB002
        .text
        .globl  _start
        .type   _start, @function
_start:
        mov     $stack_top, %esp
        sti
1:      pause
        jmp     1b
        .size   _start, . - _start
        .bss
        .balign 16
        .skip   4096
stack_top:
        .section .note.GNU-stack, "", @progbits
