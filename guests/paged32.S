# What paged32.c cannot say in C: the way into the upper half, the ways into ring 3 and back, and the program there.

        .set    KERNEL_BASE, 0xC0000000

        .section .multiboot, "a"        # Multiboot 0.6.96, section 3.1: any Multiboot loader can start this
        .balign 4
        .set    MAGIC, 0x1BADB002
        .long   MAGIC, 0, -MAGIC

        .section .start, "ax"           # runs at its physical address: there is no paging yet
        .globl  _start
        .type   _start, @function
_start:
        mov     $page_directory - KERNEL_BASE, %eax
        movl    $0x83, (%eax)           # 0x83: a page of 4 MiB, writable, present. Once at its own address, for
        movl    $0x83, (KERNEL_BASE >> 22) * 4(%eax) # the instructions right here, and once at KERNEL_BASE
        mov     %eax, %cr3
        mov     %cr4, %eax
        or      $0x10, %eax             # PSE: the directory may have pages of 4 MiB
        mov     %eax, %cr4
        mov     %cr0, %eax
        or      $0x80010000, %eax       # PG; and WP: read-only is read-only for ring 0, too
        mov     %eax, %cr0
        mov     $upper_half, %eax
        jmp     *%eax                   # a jump to an absolute address: a relative one would stay down here
        .size   _start, . - _start

        .text
        .type   upper_half, @function
upper_half:
        mov     $stack_top, %esp
        xor     %ebp, %ebp              # ends the chain of frame pointers
        cld
        call    main
        .size   upper_half, . - upper_half

# void enter_user(uint32_t eip, uint32_t esp): there is no jump to a lower privilege; there is only a return from an
# interrupt that never was.
        .globl  enter_user
        .type   enter_user, @function
enter_user:
        mov     4(%esp), %ecx
        mov     8(%esp), %edx
        mov     $0x23, %eax             # USER_DS. It stays in DS and ES when the kernel comes back: it is as flat as
        mov     %eax, %ds               # KERNEL_DS. The stack segment is another matter: the CPU takes it from the TSS.
        mov     %eax, %es
        push    %eax                    # SS
        push    %edx                    # ESP
        push    $2                      # EFLAGS: interrupts off, I/O privilege level 0
        push    $0x1B                   # CS: USER_CS
        push    %ecx                    # EIP
        iret
        .size   enter_user, . - enter_user

# Here the CPU comes from ring 3, with SS, ESP, EFLAGS, CS and EIP of ring 3 on the kernel's stack.
        .globl  system_call_entry, page_fault_entry
        .type   system_call_entry, @function
system_call_entry:
        push    $0                      # in the place of an error code
        push    $system_call
        jmp     1f
        .size   system_call_entry, . - system_call_entry

        .type   page_fault_entry, @function
page_fault_entry:
        push    $page_fault             # the CPU has pushed an error code
1:      pusha
        cld
        push    %esp                    # struct frame *
        call    *36(%esp)               # what was pushed before PUSHA's eight registers
        add     $4, %esp
        popa
        add     $8, %esp
        iret
        .size   page_fault_entry, . - page_fault_entry

        .bss
        .balign 16
        .skip   4096
        .globl  stack_top
stack_top:

# The program. System calls are as in Linux for i386: INT 0x80, EAX says what, EBX, ECX, EDX with what.
        .section .user, "ax"
        .set    EXIT, 1
        .set    WRITE, 4
        .set    HEAP, 0x40002000        # within our 4 MiB, but no page is there

        .globl  user_main
        .type   user_main, @function
user_main:
        mov     $WRITE, %eax
        mov     $1, %ebx                # to standard output
        mov     $greeting, %ecx
        mov     $greeting_size, %edx
        int     $0x80

        mov     $HEAP, %esi
        movl    $42, (%esi)             # page fault

        mov     $WRITE, %eax            # the kernel's memory: what we cannot read it must not read for us
        mov     $0xC0100000, %ecx
        int     $0x80
        add     %eax, (%esi)            # -14 (EFAULT), or much of the kernel is on the screen now

        mov     $EXIT, %eax
        mov     (%esi), %ebx
        int     $0x80
        .size   user_main, . - user_main

greeting:
        .ascii  "hello from ring 3, by int 0x80\n"
        .set    greeting_size, . - greeting

        .section .note.GNU-stack, "", @progbits
