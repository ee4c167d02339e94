// SPDX-License-Identifier: GPL-2.0 OR MIT
/* A Linux driver for pykvm's teaching card (docs/pci.md is its data sheet): computes a factorial and moves a page to the
 * card and back when it is loaded, sleeping until the card interrupts, and says how that came. */
#include <linux/bitfield.h>
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/pci.h>

enum { STATUS = 0x08, INTERRUPT_ENABLE = 0x0C, INTERRUPT_STATUS = 0x10, NUMBER = 0x20, FACTORIAL = 0x28 };
enum { DMA_ADDRESS = 0x40, DMA_LENGTH = 0x48, DMA_OFFSET = 0x4C, DMA_COMMAND = 0x50 };
enum { BY_FACTORIAL = BIT(0), BY_DMA = BIT(1), CAUSES = 3, DMA_FAILED = BIT(1), TO_DEVICE = 1, TO_RAM = 2 };

static char *mode = "any";
module_param(mode, charp, 0444);
MODULE_PARM_DESC(mode, "how the card is to interrupt: pin, msi, msix or any");

struct teaching {
    void __iomem *registers;
    struct completion done;
    int vectors;
};

static irqreturn_t on_interrupt(int irq, void *data)
{
    struct teaching *t = data;
    u32 causes = ioread32(t->registers + INTERRUPT_STATUS);

    if (!causes)
        return IRQ_NONE;
    iowrite32(causes, t->registers + INTERRUPT_STATUS);
    complete(&t->done);
    return IRQ_HANDLED;
}

static int sleep_until_done(struct teaching *t)
{
    return wait_for_completion_timeout(&t->done, 20 * HZ) ? 0 : -ETIMEDOUT;
}

static int transfer(struct teaching *t, dma_addr_t address, u32 command)
{
    int error;

    reinit_completion(&t->done);
    iowrite32(lower_32_bits(address), t->registers + DMA_ADDRESS);
    iowrite32(upper_32_bits(address), t->registers + DMA_ADDRESS + 4);
    iowrite32(PAGE_SIZE, t->registers + DMA_LENGTH);
    iowrite32(0, t->registers + DMA_OFFSET);
    iowrite32(command, t->registers + DMA_COMMAND);
    error = sleep_until_done(t);
    return error ?: ioread32(t->registers + STATUS) & DMA_FAILED ? -EIO : 0;
}

static int try_it(struct pci_dev *dev, struct teaching *t, const char *how)
{
    dma_addr_t address;
    u8 *page = dmam_alloc_coherent(&dev->dev, PAGE_SIZE, &address, GFP_KERNEL);
    int at, error;

    if (!page)
        return -ENOMEM;
    reinit_completion(&t->done);
    iowrite32(CAUSES, t->registers + INTERRUPT_ENABLE);
    iowrite32(12, t->registers + NUMBER);
    error = sleep_until_done(t);
    if (error)
        return error;
    dev_info(&dev->dev, "12! = %u, told by %s\n", ioread32(t->registers + FACTORIAL), how);
    for (at = 0; at < PAGE_SIZE; at++)
        page[at] = at * 7;
    error = transfer(t, address, TO_DEVICE);
    memset(page, 0, PAGE_SIZE);
    error = error ?: transfer(t, address, TO_RAM);
    for (at = 0; !error && at < PAGE_SIZE; at++)
        if (page[at] != (u8)(at * 7))
            error = -EIO;
    if (!error)
        dev_info(&dev->dev, "DMA works\n");
    return error;
}

static void remove(struct pci_dev *dev)
{
    struct teaching *t = pci_get_drvdata(dev);

    iowrite32(0, t->registers + INTERRUPT_ENABLE);
    while (t->vectors-- > 0)
        free_irq(pci_irq_vector(dev, t->vectors), t);
    pci_free_irq_vectors(dev);
}

static int probe(struct pci_dev *dev, const struct pci_device_id *id)
{
    unsigned int kinds = !strcmp(mode, "pin")    ? PCI_IRQ_LEGACY
                         : !strcmp(mode, "msi")  ? PCI_IRQ_MSI
                         : !strcmp(mode, "msix") ? PCI_IRQ_MSIX
                                                 : PCI_IRQ_ALL_TYPES;
    struct teaching *t = devm_kzalloc(&dev->dev, sizeof(*t), GFP_KERNEL);
    int error, vector, vectors;

    if (!t)
        return -ENOMEM;
    init_completion(&t->done);
    error = pcim_enable_device(dev);
    error = error ?: pcim_iomap_regions(dev, BIT(0), KBUILD_MODNAME);
    error = error ?: dma_set_mask_and_coherent(&dev->dev, DMA_BIT_MASK(64));
    if (error)
        return error;
    t->registers = pcim_iomap_table(dev)[0];
    pci_set_drvdata(dev, t);
    pci_set_master(dev);
    vectors = pci_alloc_irq_vectors(dev, 1, 3, kinds);
    for (vector = 0; vector < vectors; vector++) {
        error = request_irq(pci_irq_vector(dev, vector), on_interrupt, IRQF_SHARED, KBUILD_MODNAME, t);
        if (error)
            break;
    }
    t->vectors = vector;
    error = error ?: vectors < 0 ? vectors : try_it(dev, t, dev->msix_enabled ? "MSI-X" : dev->msi_enabled ? "MSI" : "pin");
    if (error)
        remove(dev);
    return error;
}

static const struct pci_device_id ids[] = { { PCI_DEVICE(0x1234, 0x7EAC) }, {} };
MODULE_DEVICE_TABLE(pci, ids);

static struct pci_driver teaching = { .name = KBUILD_MODNAME, .id_table = ids, .probe = probe, .remove = remove };
module_pci_driver(teaching);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("pykvm's teaching card");
