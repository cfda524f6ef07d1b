/*
 * Hot reset: which devices one takes along, whose groups a client must show, and that it is really done.
 */
#include "hot_reset.h"

static void info_of(int d, int group)
{
	static const uint32_t sizes[] = { 0, 11, 12, 19, 20, 27, 28, 29, 140 };
	struct info a;
	char name[64];

	for (unsigned i = 0; i < COUNT(sizes); i++) {
		int ret;

		memset(&a, 0xa5, sizeof(a));
		a.i.argsz = sizes[i];
		ret = ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &a);
		snprintf(name, sizeof(name), "info-argsz-%u", sizes[i]);
		say(name, "%s, argsz %u flags %#x count %u", answer(ret), a.i.argsz, a.i.flags, a.i.count);
		if (!ret)
			for (unsigned j = 0; j < a.i.count; j++)
				say(name, "%s, %s group", role_of(&a.devices[j]),
				    (int)a.devices[j].group_id == group ? "own" : "other");
	}
	say("info-null", "%s", answer(ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, NULL)));
}

struct request {
	struct vfio_pci_hot_reset r;
	int32_t fds[4];
};

static int reset(int d, uint32_t argsz, uint32_t flags, uint32_t count, const int *fds)
{
	struct request a = { .r = { .argsz = argsz, .flags = flags, .count = count } };

	memcpy(a.r.group_fds, fds, sizeof(a.fds));
	return ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, &a);
}

static void requests(int d, int container, int group, int other)
{
	int null = open("/dev/null", O_RDWR), twin = dup(group);
	const struct {
		const char *name;
		uint32_t argsz, flags, count;
		int fds[4];
	} table[] = {
		{ "argsz-0", 0, 0, 1, { group } },
		{ "argsz-11", 11, 0, 1, { group } },
		{ "argsz-without-array", 12, 0, 1, { group } },
		{ "own-group", 16, 0, 1, { group } },
		{ "duplicate-of-own-group", 16, 0, 1, { twin } },
		{ "flags-1", 16, 1, 1, { group } },
		{ "flags-high", 16, 1u << 31, 1, { group } },
		{ "no-groups", 12, 0, 0, { 0 } },
		{ "own-group-twice", 20, 0, 2, { group, group } },
		{ "own-group-three-times", 24, 0, 3, { group, group, group } },
		{ "own-and-other", 20, 0, 2, { group, other } },
		{ "other-group", 16, 0, 1, { other } },
		{ "minus-one", 16, 0, 1, { -1 } },
		{ "closed", 16, 0, 1, { 9999 } },
		{ "dev-null", 16, 0, 1, { null } },
		{ "container", 16, 0, 1, { container } },
		{ "device", 16, 0, 1, { d } },
		{ "own-and-closed", 20, 0, 2, { group, 9999 } },
		{ "own-and-dev-null", 20, 0, 2, { group, null } },
		{ "many", 20, 0, 100000, { group, group } },
		{ "count-all-ones", 20, 0, 0xffffffff, { group, group } },
	};
	char *edge = pages(2 * PAGE) + PAGE;
	struct vfio_pci_hot_reset at_edge = { .argsz = 16, .count = 1 };

	for (unsigned i = 0; i < COUNT(table); i++)
		say(table[i].name, "%s",
		    answer(reset(d, table[i].argsz, table[i].flags, table[i].count, table[i].fds)));
	munmap(edge, PAGE);
	memcpy(edge - sizeof(at_edge), &at_edge, sizeof(at_edge));
	say("array-unreadable", "%s", answer(ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, edge - sizeof(at_edge))));
	say("null", "%s", answer(ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, NULL)));
	close(null);
	close(twin);
}

static void put16(int d, unsigned off, uint16_t v)
{
	pwrite(d, &v, 2, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset + off);
}

static unsigned get16(int d, unsigned off)
{
	uint16_t v = 0xdead;

	pread(d, &v, 2, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset + off);
	return v;
}

static unsigned get32(int d, unsigned off)
{
	uint32_t v = 0xdead;

	pread(d, &v, 4, region(d, 0).offset + off);
	return v;
}

/* A reset of the one function takes registers of the other along, and leaves configuration space. */
static void effect(int first, int nvme, int group)
{
	int fds[4] = { group };
	uint32_t cc = 0x00460000, mask = 1;

	put16(nvme, 4, 6);
	pwrite(nvme, &cc, 4, region(nvme, 0).offset + 0x14);
	pwrite(nvme, &mask, 4, region(nvme, 0).offset + 0x0c);
	say("configuration-before", "%#x", get32(nvme, 0x14));
	say("mask-before", "%#x", get32(nvme, 0x0c));
	say("reset", "%s", answer(reset(first, 16, 0, 1, fds)));
	say("command-after", "0x%04x", get16(nvme, 4));
	say("configuration-after", "%#x", get32(nvme, 0x14));
	say("mask-after", "%#x", get32(nvme, 0x0c));
}

/* An interrupt that is set up stays so. */
static void interrupts(int d, int group)
{
	struct {
		struct vfio_irq_set s;
		int fd;
	} q = {
		.s = { .argsz = sizeof(q), .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
		       .index = VFIO_PCI_MSIX_IRQ_INDEX, .count = 1 },
		.fd = eventfd(0, EFD_NONBLOCK),
	};
	struct vfio_irq_set fire = {
		.argsz = sizeof(fire), .flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER,
		.index = VFIO_PCI_MSIX_IRQ_INDEX, .count = 1,
	};
	int fds[4] = { group };
	uint64_t n = 0;

	say("irq-set", "%s", answer(ioctl(d, VFIO_DEVICE_SET_IRQS, &q)));
	say("irq-reset", "%s", answer(reset(d, 16, 0, 1, fds)));
	say("irq-fire", "%s", answer(ioctl(d, VFIO_DEVICE_SET_IRQS, &fire)));
	read(q.fd, &n, 8);
	say("irq-count", "%llu", (unsigned long long)n);
	close(q.fd);
}

int main(void)
{
	static const char *const roles[] = { "EDU", "NVME", "NIC", "MF0", "MF1", "BR0", "BR1" };

	for (unsigned i = 0; i < COUNT(roles); i++) {
		const char *bdf = device(roles[i]);
		struct door door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
		int other = open_group(device(strcmp(roles[i], "NVME") ? "NVME" : "NIC"));

		snprintf(prefix, sizeof(prefix), "%s-", roles[i]);
		info_of(door.device, group_number(bdf));
		requests(door.device, door.container, door.group, other);
		if (!strcmp(roles[i], "NVME")) {
			effect(door.device, door.device, door.group);
			interrupts(door.device, door.group);
		}
		if (!strcmp(roles[i], "MF0")) {
			int nvme = ioctl(door.group, VFIO_GROUP_GET_DEVICE_FD, device("MF1"));

			effect(door.device, nvme, door.group);
			close(nvme);
		}
		close(other);
		close_door(&door);
	}
	return 0;
}
