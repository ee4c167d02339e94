/* 4-level paging (Intel SDM volume 3A, section 4.5): PML4 -> PDPT -> page directory -> page table -> page. */
#include "lib.h"

#define ADDRESS 0x000FFFFFFFFFF000ull
#define LARGE_PAGE 0x200000ull
#define LAPIC_PAGE 0xFEE00000ull

static uint64_t tables[16][512] __attribute__((aligned(PAGE)));
static unsigned tables_used;
static uint64_t *root;

static uint64_t *new_table(void) {
    if (tables_used == sizeof tables / sizeof *tables)
        panic("out of page tables");
    return tables[tables_used++];
}

/* The table one level below `entry`. Rights are decided at the last level: a right needs every level's consent. */
static uint64_t *below(uint64_t *entry) {
    if (!*entry)
        *entry = (uint64_t)new_table() | PAGE_PRESENT | PAGE_WRITE | PAGE_USER;
    return (uint64_t *)(*entry & ADDRESS);
}

static uint64_t *directory_of(uint64_t virtual) {
    uint64_t *pdpt = below(&root[virtual >> 39 & 511]);
    return below(&pdpt[virtual >> 30 & 511]);
}

static void set_entry(uint64_t virtual, uint64_t entry) {
    uint64_t *table = below(&directory_of(virtual)[virtual >> 21 & 511]);
    table[virtual >> 12 & 511] = entry;
    asm volatile("invlpg (%0)" : : "r"(virtual) : "memory"); /* the TLB may hold the old one */
}

void paging_map(uint64_t virtual, uint64_t physical, uint64_t flags) {
    set_entry(virtual, physical | flags | PAGE_PRESENT);
}

void paging_unmap(uint64_t virtual) { set_entry(virtual, 0); }

void paging_identity(void) {
    root = new_table();
    uint64_t *directory = directory_of(0), *first = below(&directory[0]);
    for (uint64_t i = 1; i < 512; i++) {
        first[i] = i * PAGE | PAGE_PRESENT | PAGE_WRITE;
        directory[i] = i * LARGE_PAGE | PAGE_PRESENT | PAGE_WRITE | PAGE_LARGE;
    }
    directory_of(LAPIC_PAGE)[LAPIC_PAGE >> 21 & 511] =
        LAPIC_PAGE | PAGE_PRESENT | PAGE_WRITE | PAGE_UNCACHED | PAGE_LARGE;
    write_cr3((uint64_t)root);
}
