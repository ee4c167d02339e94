# The entry point of every 64-bit guest: a stack of our own, then main(). If that returns, the machine is powered off.

        .globl  _start, stack_top
        .type   _start, @function
_start:
        cld                             # compiled code relies on it: string instructions go upwards
        lea     stack_top(%rip), %rsp
        xor     %ebp, %ebp              # ends the chain of frame pointers for whoever walks it
        call    main
        call    poweroff
        .size   _start, . - _start

        .bss
        .balign 16                      # the ABI: RSP is a multiple of 16 before a call
        .skip   16384
stack_top:

        .section .note.GNU-stack, "", @progbits
