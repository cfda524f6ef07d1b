/*
 * SET_IRQS in every legal and illegal form: INTx, MSI, MSI-X, error and request; eventfds and what arrives on them,
 * loopback, masking, sparse updates, and the state of the capability behind it.
 */
#include "client.h"

static int d;

#define NONE VFIO_IRQ_SET_DATA_NONE
#define BOOL VFIO_IRQ_SET_DATA_BOOL
#define EVENTFD VFIO_IRQ_SET_DATA_EVENTFD
#define MASK VFIO_IRQ_SET_ACTION_MASK
#define UNMASK VFIO_IRQ_SET_ACTION_UNMASK
#define TRIGGER VFIO_IRQ_SET_ACTION_TRIGGER

#define INTX VFIO_PCI_INTX_IRQ_INDEX
#define MSI VFIO_PCI_MSI_IRQ_INDEX
#define MSIX VFIO_PCI_MSIX_IRQ_INDEX
#define ERR VFIO_PCI_ERR_IRQ_INDEX
#define REQ VFIO_PCI_REQ_IRQ_INDEX

static const char *raw(uint32_t argsz, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
		       const void *data, unsigned bytes)
{
	struct {
		struct vfio_irq_set set;
		unsigned char data[256];
	} a = { .set = { .argsz = argsz, .flags = flags, .index = index, .start = start, .count = count } };

	memcpy((char *)&a + sizeof(struct vfio_irq_set), data, bytes);
	return answer(ioctl(d, VFIO_DEVICE_SET_IRQS, &a));
}

static const char *set(uint32_t flags, uint32_t index, uint32_t start, uint32_t count, const void *data,
		       unsigned bytes)
{
	return raw(sizeof(struct vfio_irq_set) + bytes, flags, index, start, count, data, bytes);
}

/* A loopback trigger of `count` vectors. */
static const char *loopback(uint32_t index, uint32_t start, uint32_t count)
{
	return set(NONE | TRIGGER, index, start, count, "", 0);
}

static int new_eventfd(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	if (fd < 0)
		die("eventfd");
	return fd;
}

/* What an eventfd has counted since last asked. */
static unsigned counted(int fd)
{
	uint64_t n;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}

/* As `counted`, but gives a device a second to get its interrupt through. */
static unsigned awaited(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	poll(&p, 1, 1000);
	return counted(fd);
}

static uint32_t config(unsigned off, unsigned bytes)
{
	uint32_t v = 0;

	if (pread(d, &v, bytes, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset + off) != (ssize_t)bytes)
		return ~0u;
	return v;
}

static void config_write(unsigned off, unsigned bytes, uint32_t v)
{
	if (pwrite(d, &v, bytes, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset + off) != (ssize_t)bytes)
		die("config write");
}

/* The control word of MSI (5) or MSI-X (0x11); its enable bit. */
static unsigned enabled(unsigned id)
{
	for (unsigned at = config(0x34, 1); at; at = config(at + 1, 1))
		if (config(at, 1) == id)
			return config(at + 2, 2) >> (id == 5 ? 0 : 15) & 1;
	return 9;
}

static void shapes(uint32_t index)
{
	static const uint32_t flags[] = {
		0, NONE, TRIGGER, NONE | BOOL | TRIGGER, NONE | EVENTFD | TRIGGER, NONE | MASK | TRIGGER,
		NONE | MASK | UNMASK, NONE | TRIGGER | 0x40, 0xffffffff,
	};
	static const uint32_t short_sizes[] = { 0, 8, 19 };
	int fds[8] = { -1, -1, -1, -1, -1, -1, -1, -1 };
	char name[64];

	for (unsigned i = 0; i < COUNT(flags); i++) {
		snprintf(name, sizeof(name), "flags-%#x", flags[i]);
		say(name, "%s", set(flags[i], index, 0, 1, fds, 4));
	}
	for (unsigned i = 0; i < COUNT(short_sizes); i++) {
		snprintf(name, sizeof(name), "argsz-%u", short_sizes[i]);
		say(name, "%s", raw(short_sizes[i], NONE | TRIGGER, index, 0, 0, "", 0));
	}
	say("data-short-by-one", "%s", raw(23, EVENTFD | TRIGGER, index, 0, 1, fds, 4));
	say("bool-data-short", "%s", raw(20, BOOL | TRIGGER, index, 0, 1, fds, 4));
	say("index-5", "%s", set(NONE | TRIGGER, 5, 0, 0, "", 0));
	say("index-all-ones", "%s", set(NONE | TRIGGER, ~0u, 0, 0, "", 0));
	say("start-beyond", "%s", set(EVENTFD | TRIGGER, index, 64, 1, fds, 4));
	say("count-beyond", "%s", set(EVENTFD | TRIGGER, index, 0, 8, fds, 32));
	say("count-huge", "%s", set(NONE | TRIGGER, index, 0, ~0u, "", 0));
	say("start-and-count-wrap", "%s", set(NONE | TRIGGER, index, ~0u, 2, "", 0));
	say("null", "%s", answer(ioctl(d, VFIO_DEVICE_SET_IRQS, NULL)));
	say("eventfd-with-count-0", "%s", set(EVENTFD | TRIGGER, index, 0, 0, fds, 0));
	say("loopback-when-off", "%s", loopback(index, 0, 1));
	say("disable-when-off", "%s", loopback(index, 0, 0));
	say("disable-at-1", "%s", loopback(index, 1, 0));
}

static void bad_eventfds(uint32_t index)
{
	int null = open("/dev/null", O_RDWR), closed = 9999, self = d, minus = -1, wild = -7;

	say("eventfd-dev-null", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &null, 4));
	say("eventfd-closed", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &closed, 4));
	say("eventfd-device", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &self, 4));
	say("eventfd-minus-seven", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &wild, 4));
	say("disable-after-refusal", "%s", loopback(index, 0, 0));
	say("eventfd-minus-one", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &minus, 4));
	say("loopback-to-minus-one", "%s", loopback(index, 0, 1));
	say("disable-after-minus-one", "%s", loopback(index, 0, 0));
	close(null);
}

static void msix(void)
{
	int fd[6], sparse[3], one;
	uint8_t bools[3] = { 1, 0, 1 };

	for (unsigned i = 0; i < COUNT(fd); i++)
		fd[i] = new_eventfd();
	say("enable-three", "%s", set(EVENTFD | TRIGGER, MSIX, 0, 3, fd, 12));
	say("enabled-in-config", "%u", enabled(0x11));
	say("loopback-all-three", "%s", loopback(MSIX, 0, 3));
	say("counts", "%u %u %u", counted(fd[0]), counted(fd[1]), counted(fd[2]));
	loopback(MSIX, 1, 1);
	loopback(MSIX, 1, 1);
	say("loopback-one-twice", "%u %u %u", counted(fd[0]), counted(fd[1]), counted(fd[2]));
	say("loopback-bool", "%s", set(BOOL | TRIGGER, MSIX, 0, 3, bools, 3));
	say("counts-bool", "%u %u %u", counted(fd[0]), counted(fd[1]), counted(fd[2]));
	say("loopback-unused-vector", "%s", loopback(MSIX, 3, 1));
	say("loopback-beyond", "%s", loopback(MSIX, 5, 1));
	say("enable-again", "%s", set(EVENTFD | TRIGGER, MSIX, 0, 3, fd, 12));
	one = -1;
	say("remove-middle", "%s", set(EVENTFD | TRIGGER, MSIX, 1, 1, &one, 4));
	say("loopback-with-hole", "%s", loopback(MSIX, 0, 3));
	say("counts-with-hole", "%u %u %u", counted(fd[0]), counted(fd[1]), counted(fd[2]));
	say("replace-first", "%s", set(EVENTFD | TRIGGER, MSIX, 0, 1, &fd[4], 4));
	loopback(MSIX, 0, 1);
	say("counts-replaced", "old %u new %u", counted(fd[0]), counted(fd[4]));
	say("add-last", "%s", set(EVENTFD | TRIGGER, MSIX, 4, 1, &fd[5], 4));
	say("loopback-last", "%s", loopback(MSIX, 4, 1));
	say("count-last", "%u", counted(fd[5]));
	sparse[0] = fd[0];
	sparse[1] = -1;
	sparse[2] = 9999;
	say("update-with-bad-third", "%s", set(EVENTFD | TRIGGER, MSIX, 0, 3, sparse, 12));
	loopback(MSIX, 0, 3);
	say("counts-after-bad-update", "%u %u %u %u", counted(fd[0]), counted(fd[1]), counted(fd[2]), counted(fd[4]));
	say("mask", "%s", set(NONE | MASK, MSIX, 0, 1, "", 0));
	say("unmask", "%s", set(NONE | UNMASK, MSIX, 0, 1, "", 0));
	say("msi-while-msix", "%s", set(EVENTFD | TRIGGER, MSI, 0, 1, fd, 4));
	say("intx-while-msix", "%s", set(EVENTFD | TRIGGER, INTX, 0, 1, fd, 4));
	say("disable-msi-while-msix", "%s", loopback(MSI, 0, 0));
	say("still-enabled", "%u", enabled(0x11));
	say("add-same-eventfd-twice", "%s", set(EVENTFD | TRIGGER, MSIX, 3, 1, &fd[5], 4));
	loopback(MSIX, 3, 2);
	say("count-of-shared", "%u", counted(fd[5]));
	say("reset", "%s", answer(ioctl(d, VFIO_DEVICE_RESET)));
	say("loopback-after-reset", "%s", loopback(MSIX, 4, 1));
	say("disable", "%s", loopback(MSIX, 0, 0));
	say("disabled-in-config", "%u", enabled(0x11));
	say("disable-twice", "%s", loopback(MSIX, 0, 0));
	say("enable-only-at-2", "%s", set(EVENTFD | TRIGGER, MSIX, 2, 1, &fd[2], 4));
	loopback(MSIX, 2, 1);
	say("count-at-2", "%u", counted(fd[2]));
	say("enable-all-five", "%s", set(EVENTFD | TRIGGER, MSIX, 0, 5, fd, 20));
	say("enable-six", "%s", set(EVENTFD | TRIGGER, MSIX, 0, 6, fd, 24));
	close(fd[0]);
	say("loopback-of-closed", "%s", loopback(MSIX, 0, 1));
	say("disable-all", "%s", loopback(MSIX, 0, 0));
	for (unsigned i = 1; i < COUNT(fd); i++)
		close(fd[i]);
}

static void msi(void)
{
	int fd[2] = { new_eventfd(), new_eventfd() };

	say("enable", "%s", set(EVENTFD | TRIGGER, MSI, 0, 1, fd, 4));
	say("enabled-in-config", "%u", enabled(5));
	say("enable-two-of-one", "%s", set(EVENTFD | TRIGGER, MSI, 0, 2, fd, 8));
	say("loopback", "%s", loopback(MSI, 0, 1));
	say("count", "%u", counted(fd[0]));
	say("replace", "%s", set(EVENTFD | TRIGGER, MSI, 0, 1, &fd[1], 4));
	loopback(MSI, 0, 1);
	say("counts-replaced", "%u %u", counted(fd[0]), counted(fd[1]));
	say("mask", "%s", set(NONE | MASK, MSI, 0, 1, "", 0));
	say("intx-while-msi", "%s", set(EVENTFD | TRIGGER, INTX, 0, 1, fd, 4));
	say("disable", "%s", loopback(MSI, 0, 0));
	say("disabled-in-config", "%u", enabled(5));
	close(fd[0]);
	close(fd[1]);
}

static void edu_write(unsigned reg, uint32_t v)
{
	if (pwrite(d, &v, 4, region(d, 0).offset + reg) != 4)
		die("edu register");
}

static uint32_t edu_read(unsigned reg)
{
	uint32_t v;

	if (pread(d, &v, 4, region(d, 0).offset + reg) != 4)
		die("edu register");
	return v;
}

/* edu raises by 0x60, shows its cause in 0x24 and is quieted by 0x64. */
static void edu_raises_msi(void)
{
	int fd = new_eventfd();

	set(EVENTFD | TRIGGER, MSI, 0, 1, &fd, 4);
	edu_write(0x60, 1);
	say("device-raises-without-bus-master", "%u", awaited(fd) ? 1 : 0);
	edu_write(0x64, ~0u);
	config_write(4, 2, 6);
	edu_write(0x60, 4);
	say("device-raises", "%u", awaited(fd));
	say("cause", "%#x", edu_read(0x24));
	edu_write(0x64, 4);
	say("cause-after-acknowledge", "%#x", edu_read(0x24));
	loopback(MSI, 0, 0);
	close(fd);
}

static void write_one(int fd)
{
	if (write(fd, &(uint64_t){ 1 }, 8) != 8)
		die("eventfd");
}

/* Unmask by eventfd, with edu's line raised, `fd` the trigger and `unmask` set. */
static void unmask_eventfd(int fd, int unmask)
{
	int other = new_eventfd(), null = open("/dev/null", O_RDWR), closed = 9999, minus = -1;

	say("unmask-eventfd-is-read", "%u", counted(unmask));
	write_one(unmask);
	say("raised-again-by-unmask-eventfd", "%u", awaited(fd));
	say("unmask-eventfd-twice", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &unmask, 4));
	say("unmask-eventfd-another", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &other, 4));
	say("unmask-eventfd-dev-null", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &null, 4));
	say("unmask-eventfd-closed", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &closed, 4));
	say("unmask-eventfd-start-1", "%s", set(EVENTFD | UNMASK, INTX, 1, 1, &other, 4));
	say("unmask-eventfd-away", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &minus, 4));
	say("unmask-eventfd-away-twice", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &minus, 4));
	write_one(other);
	write_one(other);
	say("unmask-eventfd-written-before", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &other, 4));
	say("raised-again-by-what-was-written", "%u", awaited(fd));
	say("what-was-written-is-left", "%u", counted(other));
	close(other);
	other = new_eventfd();
	say("unmask-eventfd-after-close", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &other, 4));
	write_one(other);
	say("raised-again-by-the-new-one", "%u", awaited(fd));
	config_write(4, 2, 0x406);
	say("loopback-with-intx-disabled", "%s", loopback(INTX, 0, 1));
	say("unmask-with-intx-disabled", "%s", set(NONE | UNMASK, INTX, 0, 1, "", 0));
	write_one(other);
	say("unmask-eventfd-with-intx-disabled", "%u", counted(fd));
	config_write(4, 2, 6);
	say("raised-when-intx-is-enabled", "%u", awaited(fd));
	edu_write(0x64, 8);
	loopback(INTX, 0, 0);
	counted(other);
	say("set-up-again", "%s", set(EVENTFD | TRIGGER, INTX, 0, 1, &fd, 4));
	edu_write(0x60, 8);
	say("raised-when-set-up", "%u", awaited(fd));
	write_one(other);
	say("unmask-eventfd-gone-with-intx", "%u", counted(fd));
	say("unmask-eventfd-again", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &unmask, 4));
	close(other);
	close(null);
}

static void intx(void)
{
	int fd = new_eventfd(), again = new_eventfd(), minus = -1;
	uint8_t yes = 1, no = 0;

	say("mask-when-off", "%s", set(NONE | MASK, INTX, 0, 1, "", 0));
	say("unmask-when-off", "%s", set(NONE | UNMASK, INTX, 0, 1, "", 0));
	say("enable", "%s", set(EVENTFD | TRIGGER, INTX, 0, 1, &fd, 4));
	say("enable-again", "%s", set(EVENTFD | TRIGGER, INTX, 0, 1, &fd, 4));
	say("loopback", "%s", loopback(INTX, 0, 1));
	say("count", "%u", counted(fd));
	say("loopback-bool-yes", "%s", set(BOOL | TRIGGER, INTX, 0, 1, &yes, 1));
	say("count-bool-yes", "%u", counted(fd));
	say("loopback-bool-no", "%s", set(BOOL | TRIGGER, INTX, 0, 1, &no, 1));
	say("count-bool-no", "%u", counted(fd));
	say("unmask-when-not-masked", "%s", set(NONE | UNMASK, INTX, 0, 1, "", 0));
	edu_write(0x60, 1);
	say("device-raises", "%u", awaited(fd));
	say("masked-until-unmask", "%u", counted(fd));
	say("interrupt-status", "%u", config(6, 2) >> 3 & 1);
	say("unmask-while-raised", "%s", set(NONE | UNMASK, INTX, 0, 1, "", 0));
	say("raised-again-by-unmask", "%u", awaited(fd));
	edu_write(0x64, 1);
	say("interrupt-status-after-acknowledge", "%u", config(6, 2) >> 3 & 1);
	say("unmask-when-quiet", "%s", set(NONE | UNMASK, INTX, 0, 1, "", 0));
	say("nothing-after-quiet", "%u", counted(fd));
	say("mask", "%s", set(NONE | MASK, INTX, 0, 1, "", 0));
	edu_write(0x60, 2);
	say("raised-while-masked", "%u", counted(fd));
	say("unmask", "%s", set(BOOL | UNMASK, INTX, 0, 1, &yes, 1));
	say("delivered-after-unmask", "%u", awaited(fd));
	edu_write(0x64, 2);
	say("mask-by-bool", "%s", set(BOOL | MASK, INTX, 0, 1, &yes, 1));
	say("unmask-by-bool-no", "%s", set(BOOL | UNMASK, INTX, 0, 1, &no, 1));
	edu_write(0x60, 8);
	say("still-masked", "%u", counted(fd));
	say("unmask-eventfd", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &again, 4));
	write_one(again);
	say("delivered-after-unmask-eventfd", "%u", awaited(fd));
	unmask_eventfd(fd, again);
	edu_write(0x64, 8);
	say("mask-eventfd", "%s", set(EVENTFD | MASK, INTX, 0, 1, &again, 4));
	say("unmask-eventfd-off", "%s", set(EVENTFD | UNMASK, INTX, 0, 1, &minus, 4));
	say("start-1", "%s", set(EVENTFD | TRIGGER, INTX, 1, 1, &fd, 4));
	say("count-2", "%s", set(NONE | TRIGGER, INTX, 0, 2, "", 0));
	say("msi-while-intx", "%s", set(EVENTFD | TRIGGER, MSI, 0, 1, &fd, 4));
	set(NONE | UNMASK, INTX, 0, 1, "", 0);
	config_write(4, 2, 0x406);
	edu_write(0x60, 1);
	say("raised-with-intx-disabled", "%u", counted(fd));
	config_write(4, 2, 6);
	say("delivered-after-enabling", "%u", awaited(fd));
	edu_write(0x64, 1);
	say("eventfd-minus-one", "%s", set(EVENTFD | TRIGGER, INTX, 0, 1, &minus, 4));
	say("loopback-to-minus-one", "%s", loopback(INTX, 0, 1));
	say("eventfd-back", "%s", set(EVENTFD | TRIGGER, INTX, 0, 1, &fd, 4));
	say("disable", "%s", loopback(INTX, 0, 0));
	say("disable-twice", "%s", loopback(INTX, 0, 0));
	say("loopback-after-disable", "%s", loopback(INTX, 0, 1));
	close(fd);
	close(again);
}

/* Error and request: one eventfd each, no hardware behind the loopback. */
static void notifier(uint32_t index)
{
	int fd = new_eventfd(), again = new_eventfd(), minus = -1;
	uint8_t yes = 1, no = 0;

	say("set", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &fd, 4));
	say("loopback", "%s", loopback(index, 0, 1));
	say("count", "%u", counted(fd));
	say("loopback-bool-yes", "%s", set(BOOL | TRIGGER, index, 0, 1, &yes, 1));
	say("loopback-bool-no", "%s", set(BOOL | TRIGGER, index, 0, 1, &no, 1));
	say("count-bool", "%u", counted(fd));
	say("replace", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &again, 4));
	loopback(index, 0, 1);
	say("counts-replaced", "%u %u", counted(fd), counted(again));
	say("start-1", "%s", set(EVENTFD | TRIGGER, index, 1, 1, &fd, 4));
	say("count-2", "%s", set(NONE | TRIGGER, index, 0, 2, "", 0));
	say("mask", "%s", set(NONE | MASK, index, 0, 1, "", 0));
	say("unmask", "%s", set(NONE | UNMASK, index, 0, 1, "", 0));
	say("remove", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &minus, 4));
	say("loopback-when-removed", "%s", loopback(index, 0, 1));
	say("set-again", "%s", set(EVENTFD | TRIGGER, index, 0, 1, &fd, 4));
	say("disable", "%s", loopback(index, 0, 0));
	say("loopback-when-disabled", "%s", loopback(index, 0, 1));
	say("count-when-disabled", "%u", counted(fd));
	close(fd);
	close(again);
}

static void named(const char *text)
{
	snprintf(prefix, sizeof(prefix), "%s-", text);
}

int main(void)
{
	struct door door = open_device(device("NIC"), VFIO_TYPE1v2_IOMMU);

	d = door.device;
	named("msix");
	shapes(MSIX);
	bad_eventfds(MSIX);
	msix();
	named("nic-msi");
	msi();
	named("err");
	shapes(ERR);
	bad_eventfds(ERR);
	notifier(ERR);
	named("req");
	shapes(REQ);
	notifier(REQ);
	close_door(&door);

	door = open_device(device("EDU"), VFIO_TYPE1v2_IOMMU);
	d = door.device;
	config_write(4, 2, 2);
	named("edu-msi");
	shapes(MSI);
	bad_eventfds(MSI);
	msi();
	edu_raises_msi();
	named("edu-msix");
	shapes(MSIX);
	named("edu-err");
	notifier(ERR);
	named("intx");
	config_write(4, 2, 6);
	shapes(INTX);
	bad_eventfds(INTX);
	intx();
	close_door(&door);

	/* What was set is gone with the device. */
	door = open_device(device("NIC"), VFIO_TYPE1v2_IOMMU);
	d = door.device;
	named("reopen");
	int fd = new_eventfd();
	say("enable", "%s", set(EVENTFD | TRIGGER, MSIX, 0, 1, &fd, 4));
	close(d);
	d = ioctl(door.group, VFIO_GROUP_GET_DEVICE_FD, device("NIC"));
	door.device = d;
	say("enabled-in-config", "%u", enabled(0x11));
	say("loopback", "%s", loopback(MSIX, 0, 1));
	say("count", "%u", counted(fd));
	close_door(&door);
	return 0;
}
