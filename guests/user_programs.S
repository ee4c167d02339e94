# Programs for ring 3, run by user.c in pages of their own. Each does what it may not; the kernel hears of it by
# the exception. INT3 serves as system call: RAX says what is wanted, 0 = exit, 1 = print the string at RDI.

        .section .user, "ax"

        .macro  program name
        .globl  user_\name
        .type   user_\name, @function
user_\name:
        .endm

        program hello
        mov     $1, %eax
        lea     greeting(%rip), %rdi
        int3
        xor     %eax, %eax
        int3
        .size   user_hello, . - user_hello
greeting:
        .asciz  "hello from ring 3, "

        program privileged              # HLT is for ring 0 only
        hlt
        .size   user_privileged, . - user_privileged

        program port                    # I/O privilege level 0 and no I/O map: no port is ours
        mov     $0x3F8, %edx
        in      %dx, %al
        .size   user_port, . - user_port

        program null
        xor     %eax, %eax
        mov     (%rax), %eax
        .size   user_null, . - user_null

        program kernel_write            # mapped, but without the user bit
        movl    $0, 0x100000
        .size   user_kernel_write, . - user_kernel_write

        program code_write              # its own page, but without the write bit
        movl    $0, user_code_write(%rip)
        .size   user_code_write, . - user_code_write

        program undefined
        ud2
        .size   user_undefined, . - user_undefined

        program divide
        xor     %ecx, %ecx
        div     %ecx
        .size   user_divide, . - user_divide

        program stack_execute           # data are not code, where the CPU has the NX bit
        movb    $0xCC, -16(%rsp)        # INT3, in case it has not: RAX = 0, exit
        lea     -16(%rsp), %rcx
        xor     %eax, %eax
        jmp     *%rcx
        .size   user_stack_execute, . - user_stack_execute

        .section .note.GNU-stack, "", @progbits
