# A boot sector: 512 bytes, loaded to 0000:7C00, started in real mode. It prints one line on COM1 and powers off.

        .code16
        .set    COM1, 0x3F8
        .set    LSR, COM1 + 5           # line status register; bit 5: the transmitter takes another character

        .globl  _start
_start:
        ljmp    $0, $1f                 # some BIOSes start us at 07C0:0000, the same place: make CS what we assume
1:      xor     %ax, %ax
        mov     %ax, %ds
        mov     $text, %si
        cld
next:
        lodsb                           # AL = [DS:SI], SI += 1
        test    %al, %al
        jz      done
        mov     %al, %ah
wait:
        mov     $LSR, %dx
        in      %dx, %al
        test    $0x20, %al
        jz      wait
        mov     $COM1, %dx
        mov     %ah, %al
        out     %al, %dx
        jmp     next
done:
        mov     $0x604, %dx             # the ACPI control register of QEMU's "pc" machine
        mov     $0x2000, %ax            # SLP_EN: soft-off
        out     %ax, %dx
1:      cli
        hlt
        jmp     1b

text:   .asciz  "Hello from 16-bit real mode!\n"

        .org    510
        .word   0xAA55                  # by this a BIOS knows a boot sector
