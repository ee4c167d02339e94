# The start of guests/shell.c in 32 bits. Whoever loads it (a plain ELF32 loader, Multiboot, PVH) leaves it in protected
# mode with flat segments, no paging, interrupts off, and no stack. See guests/hello32.S.

        .section .multiboot, "a"        # Multiboot 0.6.96, section 3.1
        .balign 4
        .set    MAGIC, 0x1BADB002
        .set    FLAGS, 0
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
        cld
        mov     $stack_top, %esp
        xor     %ebp, %ebp
        call    main
        .size   _start, . - _start

        .bss
        .balign 16
        .skip   8192
stack_top:

        .section .note.GNU-stack, "", @progbits
