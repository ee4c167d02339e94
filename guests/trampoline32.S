# A kernel that a Multiboot loader starts and that goes back to real mode to call the BIOS, as many do for the memory
# map, a video mode or a disk. The real-mode part runs at 0000:8000; what it was told is printed on COM1.

        .set    COM1, 0x3F8
        .set    LOW, 0x8000             # where the real-mode part is copied to
        .set    MAP, 0x9000             # E820's ranges, 20 bytes each
        .set    RANGES, 0x8F00
        .set    KIB, 0x8F04
        .set    TICKED, 0x8F08
        .set    EQUIPMENT, 0x8F0C

        .section .multiboot, "a"
        .balign 4
        .set    MAGIC, 0x1BADB002
        .long   MAGIC, 0, -MAGIC

        .text
        .globl  _start
        .type   _start, @function
_start:
        mov     $stack_top, %esp
        mov     $real_begin, %esi
        mov     $LOW, %edi
        mov     $real_end - real_begin, %ecx
        cld
        rep movsb
        mov     %esp, saved_stack
        lgdt    gdt_pointer
        ljmp    $0x18, $LOW             # 16-bit code
        .size   _start, . - _start

back:                                   # protected mode, 32 bits, data segments loaded
        mov     saved_stack, %esp
        mov     $memory, %esi
        call    print
        mov     KIB, %eax
        call    print_hex
        mov     $MAP, %ebx
        mov     RANGES, %ebp
        cmp     $2, %ebp                # the first MiB's two; above it machines differ
        jbe     next_range
        mov     $2, %ebp
next_range:
        mov     $range, %esi
        call    print
        mov     (%ebx), %eax
        call    print_hex
        mov     8(%ebx), %eax
        call    print_hex
        mov     16(%ebx), %eax
        call    print_hex
        add     $20, %ebx
        dec     %ebp
        jnz     next_range
        mov     $ticks, %esi
        call    print
        mov     TICKED, %eax
        call    print_hex
        mov     $0x604, %dx             # power off
        mov     $0x2000, %ax
        out     %ax, %dx
1:      cli
        hlt
        jmp     1b

# Prints " " and EAX as eight digits.
        .type   print_hex, @function
print_hex:
        mov     %eax, %edi
        mov     $' ', %al
        call    put
        mov     $8, %ecx
digit:
        rol     $4, %edi
        mov     %edi, %eax
        and     $15, %eax
        mov     digits(%eax), %al
        call    put
        loop    digit
        ret
        .size   print_hex, . - print_hex

# Prints the string at ESI.
        .type   print, @function
print:
        lodsb
        test    %al, %al
        jz      1f
        call    put
        jmp     print
1:      ret
        .size   print, . - print

        .type   put, @function
put:
        mov     $COM1, %dx
        out     %al, %dx
        ret
        .size   put, . - put

        .section .rodata
memory: .asciz  "memory"
range:  .asciz  "\nrange "
ticks:  .asciz  "\nticks "
digits: .ascii  "0123456789abcdef"

        .balign 8
gdt:    .quad   0
        .quad   0x00CF9A000000FFFF      # 08h: 32-bit code
        .quad   0x00CF92000000FFFF      # 10h: 32-bit data
        .quad   0x00009A000000FFFF      # 18h: 16-bit code
        .quad   0x000092000000FFFF      # 20h: 16-bit data
gdt_pointer:
        .word   . - gdt - 1
        .long   gdt

# Copied to LOW, and written so that it may be.
real_begin:
        .code16
        mov     $0x20, %ax              # 64 KiB segments, as real mode has them
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     %cr0, %eax
        and     $~1, %al
        mov     %eax, %cr0
        ljmp    $0, $LOW + (real - real_begin)
real:
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0x7C00, %sp
        lidtw   LOW + (vectors - real_begin)
        sti

        int     $0x12
        movzwl  %ax, %eax
        mov     %eax, KIB
        xor     %ebx, %ebx
        mov     %ebx, RANGES
        mov     $MAP, %di
map:    mov     $0xE820, %eax
        mov     $20, %ecx
        mov     $0x534D4150, %edx
        int     $0x15
        jc      1f
        incl    RANGES
        add     $20, %di
        test    %ebx, %ebx
        jnz     map
1:
        movl    $0, TICKED
        mov     0x46C, %eax             # two ticks of the BIOS's handler of IRQ 0
2:      mov     0x46C, %edx
        sub     %eax, %edx
        cmp     $2, %edx
        jb      2b
        incl    TICKED

        cli
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $0x08, $LOW + (protected - real_begin)
vectors:
        .word   0x3FF
        .long   0
        .code32
protected:
        mov     $0x10, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $back, %eax
        jmp     *%eax
real_end:

        .bss
        .balign 16
saved_stack:
        .skip   4
        .balign 16
        .skip   4096
stack_top:

        .section .note.GNU-stack, "", @progbits
