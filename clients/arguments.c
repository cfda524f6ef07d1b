/*
 * Bad pointers, sizes, flags and reserved fields of every command of <linux/vfio.h> and <linux/iommufd.h>, from one table.
 * A struct of zeros is what each case changes; no object is there that its zeros could mean.
 */
#include "iommufd.h"

#define V(n) _IO(';', 100 + (n))

/* What the argument of a command is. */
enum argument {
	VALUE,   /* a number, or nothing */
	POINTER, /* to something without a size of its own */
	SIZED,   /* to a struct that begins with its size */
};

struct row {
	const char *name;
	unsigned nr;
	enum argument argument;
	/* The least size of the struct, and the whole. */
	unsigned least, full;
};

static const struct row container_rows[] = {
	{ "VFIO_GET_API_VERSION", V(0), VALUE },
	{ "VFIO_CHECK_EXTENSION", V(1), VALUE },
	{ "VFIO_SET_IOMMU", V(2), VALUE },
	{ "VFIO_IOMMU_GET_INFO", V(12), SIZED, 16, 24 },
	{ "VFIO_IOMMU_MAP_DMA", V(13), SIZED, 32, 32 },
	{ "VFIO_IOMMU_UNMAP_DMA", V(14), SIZED, 24, 24 },
	{ "VFIO_IOMMU_ENABLE", V(15), VALUE },
	{ "VFIO_IOMMU_DISABLE", V(16), VALUE },
	{ "VFIO_IOMMU_DIRTY_PAGES", V(17), SIZED, 8, 8 },
};

static const struct row group_rows[] = {
	{ "VFIO_GROUP_GET_STATUS", V(3), SIZED, 8, 8 },
	{ "VFIO_GROUP_SET_CONTAINER", V(4), POINTER },
	{ "VFIO_GROUP_UNSET_CONTAINER", V(5), VALUE },
	{ "VFIO_GROUP_GET_DEVICE_FD", V(6), POINTER },
};

static const struct row device_rows[] = {
	{ "VFIO_DEVICE_GET_INFO", V(7), SIZED, 16, 24 },
	{ "VFIO_DEVICE_GET_REGION_INFO", V(8), SIZED, 32, 32 },
	{ "VFIO_DEVICE_GET_IRQ_INFO", V(9), SIZED, 16, 16 },
	{ "VFIO_DEVICE_SET_IRQS", V(10), SIZED, 20, 20 },
	{ "VFIO_DEVICE_RESET", V(11), VALUE },
	{ "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", V(12), SIZED, 12, 12 },
	{ "VFIO_DEVICE_PCI_HOT_RESET", V(13), SIZED, 12, 12 },
	{ "VFIO_DEVICE_QUERY_GFX_PLANE", V(14), VALUE },
	{ "VFIO_DEVICE_GET_GFX_DMABUF", V(15), VALUE },
	{ "VFIO_DEVICE_IOEVENTFD", V(16), POINTER },
	{ "VFIO_DEVICE_FEATURE", V(17), SIZED, 8, 8 },
};

static const struct row node_rows[] = {
	{ "VFIO_DEVICE_BIND_IOMMUFD", V(18), SIZED, 16, 24 },
	{ "VFIO_DEVICE_ATTACH_IOMMUFD_PT", V(19), SIZED, 12, 16 },
	{ "VFIO_DEVICE_DETACH_IOMMUFD_PT", V(20), SIZED, 8, 12 },
};

static const struct row iommu_rows[] = {
	{ "IOMMU_DESTROY", NR(DESTROY), SIZED, 8, 8 },
	{ "IOMMU_IOAS_ALLOC", NR(IOAS_ALLOC), SIZED, 12, 12 },
	{ "IOMMU_IOAS_ALLOW_IOVAS", NR(IOAS_ALLOW_IOVAS), SIZED, 24, 24 },
	{ "IOMMU_IOAS_COPY", NR(IOAS_COPY), SIZED, 40, 40 },
	{ "IOMMU_IOAS_IOVA_RANGES", NR(IOAS_IOVA_RANGES), SIZED, 32, 32 },
	{ "IOMMU_IOAS_MAP", NR(IOAS_MAP), SIZED, 40, 40 },
	{ "IOMMU_IOAS_UNMAP", NR(IOAS_UNMAP), SIZED, 24, 24 },
	{ "IOMMU_OPTION", NR(OPTION), SIZED, 24, 24 },
	{ "IOMMU_VFIO_IOAS", NR(VFIO_IOAS), SIZED, 12, 12 },
	{ "IOMMU_HWPT_ALLOC", NR(HWPT_ALLOC), SIZED, 24, 48 },
	{ "IOMMU_GET_HW_INFO", NR(GET_HW_INFO), SIZED, 32, 40 },
	{ "IOMMU_HWPT_SET_DIRTY_TRACKING", NR(SET_DIRTY_TRACKING), SIZED, 16, 16 },
	{ "IOMMU_HWPT_GET_DIRTY_BITMAP", NR(GET_DIRTY_BITMAP), SIZED, 48, 48 },
	{ "IOMMU_HWPT_INVALIDATE", NR(HWPT_INVALIDATE), SIZED, 32, 32 },
	{ "IOMMU_FAULT_QUEUE_ALLOC", NR(FAULT_QUEUE_ALLOC), SIZED, 16, 16 },
	{ "IOMMU_IOAS_MAP_FILE", NR(IOAS_MAP_FILE), SIZED, 40, 40 },
	{ "IOMMU_VIOMMU_ALLOC", NR(VIOMMU_ALLOC), SIZED, 24, 40 },
	{ "IOMMU_VDEVICE_ALLOC", NR(VDEVICE_ALLOC), SIZED, 24, 24 },
	{ "IOMMU_IOAS_CHANGE_PROCESS", NR(IOAS_CHANGE_PROCESS), SIZED, 8, 8 },
	{ "IOMMU_VEVENTQ_ALLOC", NR(VEVENTQ_ALLOC), SIZED, 28, 32 },
	{ "IOMMU_HW_QUEUE_ALLOC", NR(HW_QUEUE_ALLOC), SIZED, 40, 40 },
};

/* Two pages, of which the second cannot be touched. */
static char *page;

/* Runs a command on a struct of zeros of `size` bytes, in which the word at `at` is `value`. */
static const char *with(int fd, const struct row *row, unsigned size, unsigned at, uint32_t value)
{
	memset(page, 0, PAGE);
	/* no descriptor that is open, where a descriptor is asked for */
	if (row->nr == BIND)
		((int32_t *)page)[2] = -1;
	memcpy(page, &size, 4);
	if (at)
		memcpy(page + at, &value, 4);
	return answer(ioctl(fd, row->nr, page));
}

static void sized(int fd, const struct row *row)
{
	unsigned full = row->full, at = PAGE - full;

	say("size-0", "%s", with(fd, row, 0, 0, 0));
	say("size-least-less-1", "%s", with(fd, row, row->least - 1, 0, 0));
	say("size-least", "%s", with(fd, row, row->least, 0, 0));
	say("size-full", "%s", with(fd, row, full, 0, 0));
	say("size-more-zero", "%s", with(fd, row, full + 8, 0, 0));
	say("size-more-not-zero", "%s", with(fd, row, full + 8, full + 4, 1));
	say("size-page-not-zero", "%s", with(fd, row, PAGE, PAGE - 4, 1));
	for (unsigned word = 4; word < full; word += 4) {
		char name[32];

		snprintf(name, sizeof(name), "word-%u-all-ones", word);
		say(name, "%s", with(fd, row, full, word, UINT32_MAX));
	}
	/* whole, but at the end of the memory; and one byte too far */
	memset(page, 0, PAGE);
	if (row->nr == BIND)
		memset(page + at + 8, 0xff, 4);
	memcpy(page + at, &full, 4);
	say("at-the-end", "%s", answer(ioctl(fd, row->nr, page + at)));
	memset(page, 0, PAGE);
	at = PAGE - row->least + 4;
	memcpy(page + at, &full, 4);
	say("beyond-the-end", "%s", answer(ioctl(fd, row->nr, page + at)));
}

static void rows(int fd, const struct row *row, unsigned count)
{
	for (; count--; row++) {
		snprintf(prefix, sizeof(prefix), "%s/", row->name);
		say("null", "%s", answer(ioctl(fd, row->nr, 0)));
		if (row->argument == VALUE)
			continue;
		say("address-8", "%s", answer(ioctl(fd, row->nr, 8)));
		say("address-last", "%s", answer(ioctl(fd, row->nr, -4l)));
		say("no-memory", "%s", answer(ioctl(fd, row->nr, page + PAGE)));
		if (row->argument == SIZED)
			sized(fd, row);
	}
	prefix[0] = 0;
}

int main(void)
{
	struct door door = open_device(device("EDU"), VFIO_TYPE1v2_IOMMU);
	int iommu = open_iommu(), owner = open_iommu(), node = open_node(device("NVME"));

	page = pages(2 * PAGE);
	if (mprotect(page + PAGE, PAGE, PROT_NONE) || node < 0)
		die("memory and the node");
	rows(door.container, container_rows, COUNT(container_rows));
	rows(door.group, group_rows, COUNT(group_rows));
	rows(door.device, device_rows, COUNT(device_rows));
	rows(node, node_rows, 1);
	if (bind_to(node, owner, NULL))
		die("BIND_IOMMUFD");
	rows(node, node_rows + 1, COUNT(node_rows) - 1);
	rows(iommu, iommu_rows, COUNT(iommu_rows));
	return 0;
}
