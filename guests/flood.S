# Writes the alphabet to COM1 for ever and as fast as it can: it never looks whether the UART has room.

        .globl  _start
        .type   _start, @function
_start:
        mov     $0x3F8, %edx
1:      mov     $'a', %al
2:      out     %al, %dx
        inc     %al
        cmp     $'z', %al
        jbe     2b
        mov     $'\n', %al
        out     %al, %dx
        jmp     1b
        .size   _start, . - _start

        .section .note.GNU-stack, "", @progbits
