/*
 * VFIO_DEVICE_IOEVENTFD: a write to an eventfd becomes a write to a register. edu's live-check register at 4 gives back
 * the complement of what was written there.
 */
#include "client.h"
#include "edu.h"

#define LIVE_CHECK 4

static int d;

struct ioeventfd {
	uint32_t argsz, flags;
	uint64_t offset, data;
	int32_t fd;
	uint32_t reserved;
};

static const char *set(uint32_t argsz, uint32_t flags, unsigned index, uint64_t at, uint64_t data, int fd)
{
	struct ioeventfd ask = { argsz, flags, ((uint64_t)index << 40) + at, data, fd, 0 };

	return answer(ioctl(d, VFIO_DEVICE_IOEVENTFD, &ask));
}

static const char *live_check(uint64_t data, int fd)
{
	return set(32, 4, 0, LIVE_CHECK, data, fd);
}

static uint32_t live(void)
{
	return *(volatile uint32_t *)(edu_bar + LIVE_CHECK);
}

static void clear_live(void)
{
	*(volatile uint32_t *)(edu_bar + LIVE_CHECK) = 0;
}

/* What the register comes to after a write to the eventfd; 0xffffffff if it stays as it was. */
static uint32_t after_write(int fd)
{
	uint64_t one = 1;

	clear_live();
	if (write(fd, &one, 8) != 8)
		die("write to an eventfd");
	for (int i = 0; i < 50 && live() == 0xffffffff; i++)
		usleep(2000);
	return live();
}

static void refused(int fd)
{
	uint64_t end = region(d, 0).size;

	say("null", "%s", answer(ioctl(d, VFIO_DEVICE_IOEVENTFD, NULL)));
	say("argsz-27", "%s", set(27, 4, 0, LIVE_CHECK, 1, fd));
	say("no-size", "%s", set(32, 0, 0, LIVE_CHECK, 1, fd));
	say("two-sizes", "%s", set(32, 3, 0, LIVE_CHECK, 1, fd));
	say("unknown-flag", "%s", set(32, 0x14, 0, LIVE_CHECK, 1, fd));
	say("minus-two", "%s", live_check(1, -2));
	say("configuration-space", "%s", set(32, 4, VFIO_PCI_CONFIG_REGION_INDEX, 4, 1, fd));
	say("no-bar", "%s", set(32, 4, 1, 0, 1, fd));
	say("at-end", "%s", set(32, 4, 0, end - 4, 1, -1));
	say("across-end", "%s", set(32, 4, 0, end - 3, 1, fd));
	say("8-bytes", "%s", set(32, 8, 0, LIVE_CHECK, 1, fd));
	say("not-open", "%s", live_check(1, 999));
	say("no-eventfd", "%s", live_check(1, d));
	say("minus-one-without", "%s", live_check(1, -1));
}

static void written(int fd)
{
	uint64_t count = 3;
	uint16_t on = 6, off = 4;
	int other = eventfd(0, EFD_NONBLOCK);
	uint64_t config = region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset;

	say("set", "%s", live_check(0x12345678, fd));
	say("again", "%s", live_check(0x12345678, fd));
	say("another-eventfd", "%s", live_check(0x12345678, other));
	say("another-value", "%s", live_check(0x9abcdef0, other));
	say("written", "0x%08x", after_write(fd));
	say("counter", "%s", answer(read(fd, &count, 8)));
	say("other-written", "0x%08x", after_write(other));
	pwrite(d, &off, 2, config + 4);
	count = 1;
	write(fd, &count, 8);
	usleep(20000);
	pwrite(d, &on, 2, config + 4);
	say("memory-off", "0x%08x", live());
	say("taken-away", "%s", live_check(0x12345678, -1));
	say("taken-away-again", "%s", live_check(0x12345678, -1));
	say("written-after", "0x%08x", after_write(fd));
	say("set-with-counter", "%s", live_check(0x0f0f0f0f, fd));
	usleep(20000);
	say("what-counted-before", "0x%08x", live());
	say("shorter-value-of-more-bits", "%s", live_check(0xf00000001ull, other));
	say("its-low-bits-are-another", "%s", live_check(1, -1));
}

int main(void)
{
	struct door door = open_device(device("EDU"), VFIO_TYPE1v2_IOMMU);
	int fd = eventfd(0, EFD_NONBLOCK);

	d = door.device;
	edu_open(&door);
	refused(fd);
	written(fd);
	close_door(&door);

	door = open_device(device("NVME"), VFIO_TYPE1v2_IOMMU);
	d = door.device;
	strcpy(prefix, "nvme-");
	for (uint64_t at = 0x2000; at <= 0x3000; at += 0x1000) {
		char name[32];

		snprintf(name, sizeof(name), "at-0x%x", (unsigned)at);
		say(name, "%s", set(32, 4, 0, at, 0, fd));
	}
	close_door(&door);
	return 0;
}
