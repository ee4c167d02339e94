# @NAME@: a boot sector. Says hello on the serial port, and what it hears there; "q" ends the machine. The BIOS loads these
# 512 bytes at 0x7C00 and jumps there, in real mode: 16 bits, an address is segment * 16 + offset.

        .set    COM1, 0x3F8
        .set    LINE_STATUS, COM1 + 5
        .set    EXIT_PORT, 0xF4

        .code16
        .globl  _start
_start:
        ljmp    $0, $start                      # whatever CS the BIOS has chosen
start:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7C00, %sp
        cld
        mov     $hello, %si
        call    print
next:
        mov     $LINE_STATUS, %dx
        in      %dx, %al
        test    $1, %al                         # has anything come?
        jz      next
        mov     $COM1, %dx
        in      %dx, %al
        cmp     $'q', %al
        jne     1f
        mov     $0x10, %al                      # pykvm ends with the status 0x10 * 2 + 1
        out     %al, $EXIT_PORT
1:      mov     %al, key
        mov     $typed, %si
        call    print
        jmp     next

# Prints the text at DS:SI, which ends with a zero.
print:
        lodsb
        test    %al, %al
        jz      done
        mov     %al, %ah
        mov     $LINE_STATUS, %dx
1:      in      %dx, %al
        test    $0x20, %al                      # may another be sent?
        jz      1b
        mov     $COM1, %dx
        mov     %ah, %al
        out     %al, %dx
        jmp     print
done:
        ret

hello:  .asciz  "Hello from @NAME@!\nready\n"
typed:  .ascii  "you typed "
key:    .asciz  "?\n"

        .org    510
        .word   0xAA55                          # by which a BIOS knows a boot sector
