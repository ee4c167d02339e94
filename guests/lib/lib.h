/* The library of the guests: all of it on one page. Each part is one file of this directory.
 *
 * The guests start as pykvm starts an ELF64: long mode, ring 0, RAM mapped at its own addresses, interrupts off, no
 * IDT, entry at start.S, which gives main() a stack. Nothing else is set up for them: they call what they need.
 * No SSE or x87 anywhere: a kernel that saves no such registers at interrupts must not use them.
 */
#pragma once

#include "x86.h"

/* power.c: the three ways to end. */
_Noreturn void halt(void);                 /* stop for good: HLT with interrupts off */
_Noreturn void poweroff(void);             /* ACPI soft-off */
_Noreturn void exit_guest(uint32_t value); /* isa-debug-exit: the host's exit status becomes value * 2 + 1 */

/* string.c: the compiler itself calls the first three. */
void *memset(void *to, int value, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);
/* Cuts the next word off `*rest` at a space; "" if there is none. */
char *next_word(char **rest);
/* Reads the decimal number that `*s` begins with into `*value` and moves `*s` past it; false if there is none, or it
 * is above `limit`. */
bool parse_number(const char **s, uint32_t limit, uint32_t *value);

/* serial.c: COM1, a 16550A. Output polls; input comes by IRQ 4 once it is asked for. */
void serial_init(void);
void serial_write(const char *s, size_t size);
void serial_receive_on(void); /* needs interrupts_init() */
/* Takes the characters that have come; true once they complete a line, which is then in `line` without its end. */
bool serial_line(char *line, size_t size);

/* print.c: %c %s %d %u %x %%, with a width, the flags - and 0, and l for 64 bits. */
__attribute__((format(printf, 1, 2))) int printf(const char *format, ...); /* returns the characters printed */
__attribute__((format(printf, 1, 2))) _Noreturn void panic(const char *format, ...); /* ends with exit_guest(1) */

/* interrupts.c, vectors.S: GDT, TSS, IDT and PIC. Interrupts stay off until sti(). */
struct frame { /* what vectors.S and the CPU push: the lowest address first */
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};
typedef void handler(struct frame *frame);

enum { KERNEL_CS = 0x08, KERNEL_DS = 0x10, USER_DS = 0x18 | 3, USER_CS = 0x20 | 3, TSS_SELECTOR = 0x28 };
enum { BP = 3, PF = 14, IRQ0 = 0x20 }; /* vectors */

void interrupts_init(void);
void set_handler(int vector, handler *h);
void allow_from_user(int vector); /* lets ring 3 come here by INT n or INT3 */
void set_kernel_stack(uint64_t rsp); /* where the CPU pushes when it comes from ring 3 */
const char *exception_name(int vector);

/* pic.c: the two 8259A, IRQ n at vector IRQ0 + n. */
void pic_init(void); /* all masked; called by interrupts_init() */
void pic_unmask(int irq);
bool pic_spurious(int irq);
void pic_eoi(int irq);
/* A handler for an IRQ: the end of interrupt is sent after it returns. */
void set_irq_handler(int irq, handler *h);

/* pit.c: the 8254's channel 0, at IRQ 0. */
extern volatile uint64_t pit_ticks;
void pit_start(uint32_t hz); /* 19 Hz at least */
void pit_delay_us(uint32_t us);

/* lapic.c: the local APIC in xAPIC mode. Needs paging_identity(). */
enum { LAPIC_ID = 0x20, LAPIC_EOI = 0xB0, LAPIC_SVR = 0xF0, LAPIC_ICR_LOW = 0x300, LAPIC_LVT_TIMER = 0x320 };
enum { LAPIC_LVT_LINT0 = 0x350, LAPIC_TIMER_INITIAL = 0x380, LAPIC_TIMER_CURRENT = 0x390, LAPIC_TIMER_DIVIDE = 0x3E0 };
uint32_t lapic_read(uint32_t offset);
void lapic_write(uint32_t offset, uint32_t value);
void lapic_init(void);

/* paging.c: 4-level page tables. */
enum { PAGE = 4096 };
#define PAGE_PRESENT (1ull << 0)
#define PAGE_WRITE (1ull << 1)
#define PAGE_USER (1ull << 2)
#define PAGE_UNCACHED (1ull << 4)
#define PAGE_LARGE (1ull << 7)
#define PAGE_NX (1ull << 63)
/* Maps the first GiB (all but page 0, so that a null pointer faults) and the local APIC at their own addresses, for
 * ring 0 only, and loads the tables. */
void paging_identity(void);
/* Maps one page into the loaded tables. `virtual` must not lie in a large page. */
void paging_map(uint64_t virtual, uint64_t physical, uint64_t flags);
void paging_unmap(uint64_t virtual);

/* ata.c: disks at the two ISA channels, PIO with interrupts. Needs interrupts_init(), pit_start(100), sti(). */
enum ata_kind { ATA_NONE, ATA_DISK, ATA_PACKET };
struct ata_drive {
    int channel, unit;
    uint64_t sectors;
    uint32_t multiple; /* sectors a block in READ/WRITE MULTIPLE; 0: not supported */
    bool lba48;
    char model[41];
};
enum { /* commands of ata_transfer() */
    ATA_READ_SECTORS = 0x20,
    ATA_READ_SECTORS_EXT = 0x24,
    ATA_READ_MULTIPLE_EXT = 0x29,
    ATA_WRITE_SECTORS = 0x30,
    ATA_WRITE_SECTORS_EXT = 0x34,
    ATA_WRITE_MULTIPLE_EXT = 0x39,
    ATA_READ_MULTIPLE = 0xC4,
    ATA_WRITE_MULTIPLE = 0xC5,
};
void ata_init(void);
enum ata_kind ata_identify(int channel, int unit, struct ata_drive *drive);
/* These return NULL, or what went wrong. `count` is 1 to 255 sectors. */
const char *ata_transfer(const struct ata_drive *drive, uint8_t command, uint64_t lba, uint32_t count, void *buffer);
const char *ata_flush(const struct ata_drive *drive);

/* ne2000.c: a NE2000 (DP8390) at 0x300, IRQ 9. */
enum { FRAME_MIN = 60, FRAME_MAX = 1514 }; /* without the checksum, which the chip adds and takes off */
enum { NE2000_BROADCAST = 0x04, NE2000_PROMISCUOUS = 0x10 };
struct ne2000_stats {
    uint32_t received, sent, overruns, errors;
};
extern struct ne2000_stats ne2000_stats;
extern volatile bool ne2000_pending; /* the chip has interrupted: call ne2000_service() */
bool ne2000_init(uint8_t mac[6]);    /* false: no such chip. Else it is stopped, and `mac` read from its PROM */
void ne2000_start(const uint8_t mac[6], uint8_t receive_mode);
void ne2000_interrupts_on(void); /* needs interrupts_init() */
/* Does what the chip wants done; each frame that has come is handed to `receive`, which may send. */
void ne2000_service(void (*receive)(uint8_t *frame, size_t size));
bool ne2000_send(const uint8_t *frame, size_t size); /* false: the chip does not transmit */

/* pci.c: configuration space of bus 0. */
struct pci {
    int device, function;
};
enum { PCI_ID = 0x00, PCI_COMMAND = 0x04, PCI_STATUS = 0x06, PCI_CLASS = 0x08, PCI_BAR0 = 0x10, PCI_CAPABILITIES = 0x34 };
enum { PCI_LINE = 0x3C, PCI_PIN = 0x3D };
enum { PCI_IO = 1 << 0, PCI_MEMORY = 1 << 1, PCI_MASTER = 1 << 2, PCI_NO_INTX = 1 << 10 }; /* of PCI_COMMAND */
enum { PCI_MSI = 0x05, PCI_MSIX = 0x11 };                                                    /* capabilities */
uint32_t pci_read(struct pci p, unsigned at, unsigned size);
void pci_write(struct pci p, unsigned at, unsigned size, uint32_t value);
/* Moves `*p`, which begins as {0, -1}, to the next function that there is; false behind the last. */
bool pci_next(struct pci *p);
uint64_t pci_bar(struct pci p, int number);         /* its address or port */
unsigned pci_capability(struct pci p, uint8_t id); /* where it is; 0: nowhere */
