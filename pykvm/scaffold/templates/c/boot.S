/* Where a Multiboot 2 loader (GRUB, pykvm) enters the kernel: 32-bit protected mode, flat segments, no paging, interrupts
 * off, EAX the magic number, EBX the loader's information. There is no stack yet. */

        .section .multiboot, "a"
        .balign 8
header:
        .long   0xE85250D6                      /* Multiboot 2 */
        .long   0                               /* for i386 */
        .long   header_end - header
        .long   -(0xE85250D6 + header_end - header)
        .short  0, 0                            /* no wishes */
        .long   8
header_end:

        .text
        .globl  _start
_start:
        mov     $stack_top, %esp
        push    %ebx
        push    %eax
        call    kernel_main
1:      cli
        hlt
        jmp     1b

        .bss
        .balign 16
        .skip   16384
stack_top:

        .section .note.GNU-stack, "", @progbits
