/* One C function an instruction: what the compiler has no notation for. Source: Intel SDM volume 2. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint8_t inb(uint16_t port) {
    uint8_t value;
    asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint16_t inw(uint16_t port) {
    uint16_t value;
    asm volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t inl(uint16_t port) {
    uint32_t value;
    asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void outb(uint16_t port, uint8_t value) { asm volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(uint16_t port, uint16_t value) { asm volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(uint16_t port, uint32_t value) { asm volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

/* String I/O: a whole block in one instruction. */
static inline void insw(uint16_t port, void *buffer, size_t words) {
    asm volatile("rep insw" : "+D"(buffer), "+c"(words) : "d"(port) : "memory");
}

static inline void outsw(uint16_t port, const void *buffer, size_t words) {
    asm volatile("rep outsw" : "+S"(buffer), "+c"(words) : "d"(port) : "memory");
}

static inline void cli(void) { asm volatile("cli" : : : "memory"); }
static inline void sti(void) { asm volatile("sti" : : : "memory"); }
static inline void pause(void) { asm volatile("pause" : : : "memory"); }

/* Sleeps until an interrupt was handled; interrupts are off before and after. STI takes effect only after the next
 * instruction, so no interrupt can slip in between it and HLT and be slept through. */
static inline void wait_for_interrupt(void) { asm volatile("sti; hlt; cli" : : : "memory"); }

/* Sleeps until `condition`, which some interrupt handler makes true. It is looked at with interrupts off. */
#define wait_until(condition)       \
    do {                            \
        cli();                      \
        while (!(condition))        \
            wait_for_interrupt();   \
        sti();                      \
    } while (0)

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf) {
    struct cpuid r;
    asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}

static inline uint64_t rdmsr(uint32_t msr) {
    uint32_t low, high;
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}

static inline void wrmsr(uint32_t msr, uint64_t value) {
    asm volatile("wrmsr" : : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32)) : "memory");
}

#define CR0_MP (1ull << 1)
#define CR0_EM (1ull << 2)
#define CR0_WP (1ull << 16)
#define CR4_OSFXSR (1ull << 9)
#define MSR_EFER 0xC0000080
#define EFER_NXE (1ull << 11)

static inline uint64_t read_cr0(void) {
    uint64_t value;
    asm volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}

static inline uint64_t read_cr2(void) {
    uint64_t value;
    asm volatile("mov %%cr2, %0" : "=r"(value));
    return value;
}

static inline uint64_t read_cr3(void) {
    uint64_t value;
    asm volatile("mov %%cr3, %0" : "=r"(value));
    return value;
}

static inline uint64_t read_cr4(void) {
    uint64_t value;
    asm volatile("mov %%cr4, %0" : "=r"(value));
    return value;
}

static inline void write_cr0(uint64_t value) { asm volatile("mov %0, %%cr0" : : "r"(value) : "memory"); }
static inline void write_cr3(uint64_t value) { asm volatile("mov %0, %%cr3" : : "r"(value) : "memory"); }
static inline void write_cr4(uint64_t value) { asm volatile("mov %0, %%cr4" : : "r"(value) : "memory"); }

/* The operand of LGDT and LIDT. */
struct table_register {
    uint16_t limit; /* size in bytes, minus one */
    uint64_t base;
} __attribute__((packed));

static inline void lgdt(struct table_register r) { asm volatile("lgdt %0" : : "m"(r)); }
static inline void lidt(struct table_register r) { asm volatile("lidt %0" : : "m"(r)); }
static inline void ltr(uint16_t selector) { asm volatile("ltr %0" : : "r"(selector)); }
