# A boot sector that asks the BIOS: it prints, loads the rest of itself from its disk, and shows memory, time and keys.

        .code16
        .set    DISK_ADDRESS, rest - _start     # sectors from here on are not loaded by the BIOS

        .globl  _start
_start:
        ljmp    $0, $1f                 # some BIOSes start us at 07C0:0000, the same place: make CS what we assume
1:      xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $_start, %sp            # the stack grows down from where we are
        mov     %dl, drive              # the drive that we were loaded from
        cld

        mov     $hello, %si
        call    print
        mov     $(DISK_ADDRESS / 512 + 1), %cl  # sectors count from 1,
        xor     %ch, %ch                # cylinders
        xor     %dh, %dh                # and heads from 0
        mov     drive, %dl
        mov     $rest, %bx              # to ES:BX
        mov     $0x0202, %ax            # AH = 2: read; AL = 2: two sectors
        int     $0x13
        jc      failed                  # the carry flag tells of errors, AH of which
        jmp     rest

failed: mov     $error, %si
        call    print
        mov     %ah, %al
        call    print_hex
stop:   cli
        hlt
        jmp     stop

# Prints the text at SI, which ends with a zero byte.
print:  pusha
1:      lodsb
        test    %al, %al
        jz      2f
        mov     $0x0E, %ah              # AH = 0Eh: as a teletype does
        xor     %bx, %bx                # on page 0
        int     $0x10
        jmp     1b
2:      popa
        ret

# Prints AL as two digits, AX as four, EAX as eight.
print_hex8:
        push    %eax
        shr     $16, %eax
        call    print_hex4
        pop     %eax
print_hex4:
        xchg    %al, %ah
        call    print_hex
        xchg    %al, %ah
print_hex:
        pusha
        mov     %al, %cl
        shr     $4, %al
        call    digit
        mov     %cl, %al
        and     $0x0F, %al
        call    digit
        popa
        ret
digit:  cmp     $10, %al
        sbb     $0x69, %al              # the shortest way from 0..15 to '0'..'F',
        das                             # a trick as old as the 8086
        mov     $0x0E, %ah
        xor     %bx, %bx
        int     $0x10
        ret

drive:  .byte   0
hello:  .asciz  "bios: a boot sector\r\n"
error:  .asciz  "bios: the disk failed with status "

        .org    510
        .word   0xAA55                  # by this a BIOS knows a boot sector

rest:   mov     $loaded, %si
        call    print

        # The memory map, a range at a time: EBX says which, 0 that it was the last.
        xor     %ebx, %ebx
1:      mov     $0xE820, %eax
        mov     $0x534D4150, %edx       # "SMAP"
        mov     $20, %ecx
        mov     $range, %di
        int     $0x15
        jc      2f
        mov     $memory, %si
        call    print
        mov     range, %eax
        call    print_hex8
        mov     $size, %si
        call    print
        mov     range + 8, %eax
        call    print_hex8
        mov     $type, %si
        call    print
        mov     range + 16, %al
        call    print_hex
        call    new_line
        test    %ebx, %ebx
        jnz     1b

        # Two ticks of the timer, which interrupts 18.2 times a second.
2:      xor     %ah, %ah
        int     $0x1A                   # CX:DX = ticks since midnight
        mov     %dx, %si
1:      hlt
        xor     %ah, %ah
        int     $0x1A
        sub     %si, %dx
        cmp     $2, %dx
        jb      1b
        mov     $ticked, %si
        call    print

        # Keys, until Escape.
1:      xor     %ah, %ah
        int     $0x16                   # waits; AH = scan code, AL = character
        mov     $key, %si
        call    print
        call    print_hex4
        call    new_line
        cmp     $0x1B, %al
        jne     1b
        mov     $bye, %si
        call    print
        jmp     stop

new_line:
        push    %si
        mov     $line, %si
        call    print
        pop     %si
        ret

loaded: .asciz  "bios: the rest is loaded\r\n"
memory: .asciz  "bios: memory at "
size:   .asciz  ", size "
type:   .asciz  ", type "
ticked: .asciz  "bios: two ticks; press keys, Escape ends\r\n"
key:    .asciz  "bios: key "
bye:    .asciz  "bios: bye"
line:   .asciz  "\r\n"
range:  .skip   20

        .org    3 * 512
