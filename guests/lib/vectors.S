# The first instructions of every interrupt and exception, and the way back (Intel SDM volume 3A, section 6.14).

# The CPU pushes SS, RSP, RFLAGS, CS, RIP, and for some exceptions an error code. Each entry makes that the same for
# all, adds the vector's number, and goes on in one place. Entries are 16 bytes apart: vector n is at vectors + 16 * n.

        .globl  vectors
        .balign 16
vectors:
        .set    vector, 0
        .rept   256
        .if     vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21
        .else
        push    $0
        .endif
        push    $vector
        jmp     interrupt_entry
        .balign 16
        .set    vector, vector + 1
        .endr

        .type   interrupt_entry, @function
interrupt_entry:
        push    %rax                    # the order of struct frame, from its end
        push    %rcx
        push    %rdx
        push    %rbx
        push    %rbp
        push    %rsi
        push    %rdi
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        cld
        mov     %rsp, %rdi              # the CPU aligns RSP to 16 first; 22 words later it is so again
        call    interrupt
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rdi
        pop     %rsi
        pop     %rbp
        pop     %rbx
        pop     %rdx
        pop     %rcx
        pop     %rax
        add     $16, %rsp               # vector and error code
        iretq
        .size   interrupt_entry, . - interrupt_entry

        .section .note.GNU-stack, "", @progbits
