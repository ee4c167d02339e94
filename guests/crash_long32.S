# Enters long mode by the book, but the far jump goes to a 32-bit code segment: the 64-bit code behind it runs as 32-bit
# code, whose meaning is another, until it comes to something that cannot be done.

        .text
        .globl  _start
        .type   _start, @function
_start:
        mov     $stack_top, %esp
        lidt    no_table
        mov     %cr4, %eax
        or      $0x20, %eax             # PAE
        mov     %eax, %cr4
        mov     $pml4, %eax
        mov     %eax, %cr3
        mov     $0xC0000080, %ecx       # EFER
        rdmsr
        or      $0x100, %eax            # LME
        wrmsr
        mov     %cr0, %eax
        or      $0x80000000, %eax       # PG
        mov     %eax, %cr0
        lgdt    gdt_register
        ljmp    $0x08, $long_code
        .size   _start, . - _start

        .code64
        .type   long_code, @function
long_code:
        mov     $0x1122334455667788, %rax
        mov     %rax, %rbx
        movabs  $0x700000000000, %rcx
        mov     (%rcx), %rax
        hlt
        .size   long_code, . - long_code

        .data
        .balign 4096
pml4:   .long   pdpt + 3, 0
        .fill   4088, 1, 0
pdpt:   .long   pd + 3, 0
        .fill   4088, 1, 0
pd:     .quad   0x83                    # 2 MiB at their own addresses
        .fill   4088, 1, 0
gdt:    .quad   0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF # D=1 where L=1 should be
gdt_register:
        .word   23
        .long   gdt

        .section .rodata
no_table:
        .word   0                       # limit
        .long   0                       # base

        .bss
        .balign 16
        .skip   4096
stack_top:

        .section .note.GNU-stack, "", @progbits
