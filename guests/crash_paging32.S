# Dies in 32-bit protected mode with paging: a read of an address that no page is mapped at, and no IDT.

        .text
        .globl  _start
        .type   _start, @function
_start:
        mov     $stack_top, %esp
        xor     %ebp, %ebp
        lidt    no_table
        movl    $directory_entry, %eax
        movl    %eax, %cr3
        mov     %cr4, %eax
        or      $0x10, %eax             # PSE: pages of 4 MiB
        mov     %eax, %cr4
        mov     %cr0, %eax
        or      $0x80000000, %eax       # PG
        mov     %eax, %cr0
        mov     0x00800000, %ebx        # the third 4 MiB: the directory has only the first
        hlt
        .size   _start, . - _start

        .section .rodata
no_table:
        .word   0                       # limit
        .long   0                       # base

        .data
        .balign 4096
directory_entry:
        .long   0x83                    # present, writable, 4 MiB, at 0
        .zero   4092

        .bss
        .balign 16
        .skip   4096
stack_top:

        .section .note.GNU-stack, "", @progbits
