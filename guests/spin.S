# One instruction for ever: nothing gets out of it but the host. (Try: interrupting, timeouts, sampling RIP.)

        .globl  _start
        .type   _start, @function
_start:
        jmp     .
        .size   _start, . - _start

        .section .note.GNU-stack, "", @progbits
