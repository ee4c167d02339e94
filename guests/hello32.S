# A 32-bit guest that three kinds of loader can start: anything that enters a plain ELF32, a Multiboot loader (GRUB,
# "qemu -kernel"), a PVH loader (Xen, QEMU, Firecracker). All three agree on this: protected mode, flat segments, no
# paging, interrupts off. None promises a stack.

        .set    COM1, 0x3F8
        .set    LSR, COM1 + 5

        .section .multiboot, "a"        # Multiboot 0.6.96, section 3.1: within the file's first 8192 bytes
        .balign 4
        .set    MAGIC, 0x1BADB002
        .set    FLAGS, 0                # we ask for nothing; addresses come from the ELF headers
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)

        .section .note.Xen, "a", @note  # Xen's x86/HVM direct boot ABI
        .balign 4
        .long   4, 4, 18                # sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY
        .asciz  "Xen"
        .long   _start

        .text
        .globl  _start
        .type   _start, @function
_start:
        mov     $stack_top, %esp
        mov     $text, %esi
        call    print
        mov     $0x604, %dx             # ACPI soft-off on QEMU's "pc" machine
        mov     $0x2000, %ax
        out     %ax, %dx
1:      cli
        hlt
        jmp     1b
        .size   _start, . - _start

# Prints the string at ESI on COM1.
        .type   print, @function
print:
        cld
next:
        lodsb                           # AL = [ESI], ESI += 1
        test    %al, %al
        jz      done
        mov     %al, %ah
wait:
        mov     $LSR, %dx
        in      %dx, %al
        test    $0x20, %al              # THR empty?
        jz      wait
        mov     $COM1, %dx
        mov     %ah, %al
        out     %al, %dx
        jmp     next
done:
        ret
        .size   print, . - print

        .section .rodata
text:   .asciz  "Hello from 32-bit protected mode!\n"

        .bss
        .balign 16
        .skip   4096
stack_top:

        .section .note.GNU-stack, "", @progbits
