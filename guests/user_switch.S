# Into ring 3 and back. The kernel's side of a user program is a function call that returns when the program ends.

        .text
# uint64_t enter_user(uint64_t rip, uint64_t rsp): runs a program until somebody calls leave_user().
        .globl  enter_user
        .type   enter_user, @function
enter_user:
        push    %rbx                    # the registers that the ABI has a function keep
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, kernel_rsp(%rip)
        push    %rdi
        push    %rsi
        lea     16(%rsp), %rdi
        sub     $8, %rsp                # 6 + 2 + 1 words and the return address: RSP is a multiple of 16 again
        call    set_kernel_stack        # interrupts in ring 3 push right below what was saved here
        add     $8, %rsp
        pop     %rsi
        pop     %rdi
        # There is no jump to a lower privilege; there is only a return from an interrupt that never was.
        push    $0x1B                   # SS: USER_DS
        push    %rsi
        push    $2                      # RFLAGS: interrupts off, I/O privilege level 0
        push    $0x23                   # CS: USER_CS
        push    %rdi
        xor     %eax, %eax
        iretq
        .size   enter_user, . - enter_user

# void leave_user(uint64_t value): called in an exception handler; makes enter_user() return `value`.
        .globl  leave_user
        .type   leave_user, @function
leave_user:
        mov     %rdi, %rax
        mov     kernel_rsp(%rip), %rsp
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret
        .size   leave_user, . - leave_user

        .local  kernel_rsp
        .comm   kernel_rsp, 8, 8

        .section .note.GNU-stack, "", @progbits
