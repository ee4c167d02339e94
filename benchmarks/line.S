# Prints one line on COM1 and ends the run through the exit port 0xF4, which QEMU's isa-debug-exit and pykvm both have:
# status 1 (of the value 0). Other than guests/hello32.S it can end on QEMU's machines without ACPI.
#
# As it is:   a 32-bit ELF file with a Multiboot header and a PVH note.
# -DFIRMWARE: the last 64 KiB below 1 MiB and below 4 GiB, for "qemu -bios": the CPU's reset vector is in it, so that
#             nothing runs before it.

        .set    COM1, 0x3F8
        .set    EXIT, 0xF4

#ifdef FIRMWARE
        .code16
        .text
        .globl  _start
_start:
        mov     $(text - _start), %si
#define LOAD cs lodsb
#else
        .section .multiboot, "a"
        .balign 4
        .long   0x1BADB002, 0, -0x1BADB002
        .section .note.Xen, "a", @note
        .balign 4
        .long   4, 4, 18
        .asciz  "Xen"
        .long   _start
        .text
        .globl  _start
_start:
        mov     $text, %esi
#define LOAD lodsb
#endif
        cld
next:   LOAD
        test    %al, %al
        jz      done
        mov     %al, %ah
wait:   mov     $COM1 + 5, %dx
        in      %dx, %al
        test    $0x20, %al              # THR empty?
        jz      wait
        mov     $COM1, %dx
        mov     %ah, %al
        out     %al, %dx
        jmp     next
done:   xor     %eax, %eax
        mov     $EXIT, %dx
        out     %eax, %dx
1:      hlt
        jmp     1b
text:   .asciz  "Hello, benchmark!\n"

#ifdef FIRMWARE
        .org    0xFFF0
        ljmp    $0xF000, $0              # from F000:FFF0 with the base 0xFFFF0000 to the same bytes below 1 MiB
        .org    0x10000
#endif

        .section .note.GNU-stack, "", @progbits
