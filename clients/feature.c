/*
 * VFIO_DEVICE_FEATURE of a device that vfio-pci itself drives: every feature by number, the call's own rules, low power,
 * and BARs as dma-bufs.
 */
#include "client.h"

#define GET VFIO_DEVICE_FEATURE_GET
#define SET VFIO_DEVICE_FEATURE_SET
#define PROBE VFIO_DEVICE_FEATURE_PROBE

/* Newer than some headers. */
#define LOW_POWER_ENTRY 3
#define LOW_POWER_ENTRY_WITH_WAKEUP 4
#define LOW_POWER_EXIT 5
#define DMA_BUF 11
#define NUMBERS 16

struct range {
	uint64_t offset, length;
};

static int d;
static const char *role;

static void say_of(const char *name, const char *text)
{
	char full[96];

	snprintf(full, sizeof(full), "%s-%s", role, name);
	say(full, "%s", text);
}

static long feature(uint32_t argsz, uint32_t flags, const void *data, unsigned bytes)
{
	struct {
		struct vfio_device_feature head;
		unsigned char data[512];
	} a = { .head = { .argsz = argsz, .flags = flags } };

	memcpy((char *)&a + sizeof(struct vfio_device_feature), data, bytes);
	return ioctl(d, VFIO_DEVICE_FEATURE, &a);
}

static long plain(uint32_t flags)
{
	return feature(sizeof(struct vfio_device_feature), flags, "", 0);
}

static void numbers(void)
{
	static const struct {
		const char *name;
		uint32_t flags;
	} ways[] = {
		{ "probe-get", PROBE | GET }, { "probe-set", PROBE | SET }, { "probe-both", PROBE | GET | SET },
		{ "probe", PROBE }, { "no-way", 0 },
	};
	char name[48];

	for (unsigned i = 0; i <= NUMBERS; i++)
		for (unsigned way = 0; way < COUNT(ways); way++) {
			snprintf(name, sizeof(name), "%u-%s", i == NUMBERS ? 0xffff : i, ways[way].name);
			say_of(name, answer(plain((i == NUMBERS ? 0xffff : i) | ways[way].flags)));
		}
	say_of("argsz-0", answer(feature(0, PROBE | SET | LOW_POWER_EXIT, "", 0)));
	say_of("argsz-7", answer(feature(7, PROBE | SET | LOW_POWER_EXIT, "", 0)));
	say_of("argsz-9", answer(feature(9, PROBE | SET | LOW_POWER_EXIT, "", 0)));
	say_of("get-and-set", answer(plain(GET | SET | LOW_POWER_EXIT)));
	say_of("unknown-flag", answer(plain(PROBE | SET | LOW_POWER_EXIT | 1 << 19)));
	say_of("null", answer(ioctl(d, VFIO_DEVICE_FEATURE, NULL)));
}

static const char *config_read(void)
{
	uint16_t v;

	return answer(pread(d, &v, 2, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset));
}

static void low_power(void)
{
	say_of("low-power-exit-when-off", answer(plain(SET | LOW_POWER_EXIT)));
	say_of("low-power", answer(plain(SET | LOW_POWER_ENTRY)));
	say_of("low-power-twice", answer(plain(SET | LOW_POWER_ENTRY)));
	say_of("config-read-asleep", config_read());
	say_of("low-power-after-read", answer(plain(SET | LOW_POWER_ENTRY)));
	say_of("low-power-exit", answer(plain(SET | LOW_POWER_EXIT)));
	say_of("low-power-exit-twice", answer(plain(SET | LOW_POWER_EXIT)));
	say_of("low-power-get", answer(plain(GET | LOW_POWER_ENTRY)));
}

/* What an eventfd has counted, after the device had time to fall asleep or wake. */
static const char *counted(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t n = 0;

	poll(&p, 1, 200);
	if (read(fd, &n, sizeof(n)) != sizeof(n))
		n = 0;
	return answer(n);
}

static long wakeup(int fd)
{
	int data[2] = { fd, 0 };

	return feature(sizeof(struct vfio_device_feature) + 8, SET | LOW_POWER_ENTRY_WITH_WAKEUP, data, 8);
}

static void low_power_with_wakeup(void)
{
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), null = open("/dev/null", O_RDWR);
	int data[2] = { fd, 0 };

	say_of("wakeup-eventfd-minus-one", answer(wakeup(-1)));
	say_of("wakeup-eventfd-closed", answer(wakeup(9999)));
	say_of("wakeup-eventfd-dev-null", answer(wakeup(null)));
	say_of("wakeup-short", answer(feature(15, SET | LOW_POWER_ENTRY_WITH_WAKEUP, data, 8)));
	say_of("wakeup", answer(wakeup(fd)));
	say_of("asleep", counted(fd));
	say_of("config-read-wakes", config_read());
	say_of("woken-by-config-read", counted(fd));
	say_of("config-read-awake", config_read());
	say_of("not-woken-twice", counted(fd));
	say_of("wakeup-again", answer(wakeup(fd)));
	say_of("asleep-again", counted(fd));
	say_of("exit-wakes", answer(plain(SET | LOW_POWER_EXIT)));
	say_of("woken-by-exit", counted(fd));
	say_of("wakeup-once-more", answer(wakeup(fd)));
	say_of("asleep-once-more", counted(fd));
	say_of("wakeup-twice", answer(wakeup(fd)));
	say_of("woken-by-wakeup", counted(fd));
	say_of("low-power-over-wakeup", answer(plain(SET | LOW_POWER_ENTRY)));
	say_of("woken-by-low-power", counted(fd));
	say_of("low-power-exit-at-last", answer(plain(SET | LOW_POWER_EXIT)));
	close(fd);
	close(null);
}

static int dma_buf(uint32_t bar, uint32_t flags, uint32_t count, const struct range *ranges, unsigned have)
{
	struct {
		uint32_t region, open_flags, flags, count;
		struct range ranges[4];
	} a = { .region = bar, .open_flags = O_RDWR | O_CLOEXEC, .flags = flags, .count = count };

	memcpy(a.ranges, ranges, have * sizeof(*ranges));
	return feature(sizeof(struct vfio_device_feature) + 16, GET | DMA_BUF, &a, 16 + have * sizeof(*ranges));
}

static const char *exported(uint32_t bar, uint64_t offset, uint64_t length)
{
	struct range r = { offset, length };

	return tried(dma_buf(bar, 0, 1, &r, 1));
}

static void dma_bufs(void)
{
	uint64_t size = region(d, 0).size;
	struct range two[2] = { { 0, PAGE }, { PAGE, PAGE } }, twice[2] = { { 0, PAGE }, { 0, PAGE } };
	struct {
		struct vfio_device_feature head;
		uint32_t region, open_flags, flags, count;
	} a = { .head = { .argsz = 23, .flags = GET | DMA_BUF }, .count = 1 };
	uint64_t sync = 3;
	int fd;

	say_of("dma-buf-whole", exported(0, 0, size));
	say_of("dma-buf-page", exported(0, 0, PAGE));
	say_of("dma-buf-last-page", exported(0, size - PAGE, PAGE));
	say_of("dma-buf-beyond", exported(0, PAGE, size));
	say_of("dma-buf-outside", exported(0, size, PAGE));
	say_of("dma-buf-empty", exported(0, 0, 0));
	say_of("dma-buf-unaligned-offset", exported(0, 16, PAGE));
	say_of("dma-buf-unaligned-length", exported(0, 0, 16));
	say_of("dma-buf-wraps", exported(0, -PAGE, PAGE));
	say_of("dma-buf-far", exported(0, 1ull << 63, PAGE));
	say_of("dma-buf-huge", exported(0, 0, 1ull << 63));
	say_of("dma-buf-port-bar", exported(2, 0, PAGE));
	say_of("dma-buf-no-bar", exported(5, 0, PAGE));
	say_of("dma-buf-rom", exported(6, 0, PAGE));
	say_of("dma-buf-config", exported(7, 0, PAGE));
	say_of("dma-buf-region-9", exported(9, 0, PAGE));
	say_of("dma-buf-two-ranges", tried(dma_buf(0, 0, 2, two, 2)));
	say_of("dma-buf-same-range-twice", tried(dma_buf(0, 0, 2, twice, 2)));
	say_of("dma-buf-no-range", tried(dma_buf(0, 0, 0, two, 1)));
	say_of("dma-buf-flags", tried(dma_buf(0, 1, 1, two, 1)));
	say_of("dma-buf-many-ranges", tried(dma_buf(0, 0, 1u << 31, two, 1)));
	say_of("dma-buf-short", answer(ioctl(d, VFIO_DEVICE_FEATURE, &a)));
	fd = dma_buf(0, 0, 1, two, 1);
	say_of("dma-buf", opened(fd));
	say_of("dma-buf-cloexec", answer(fcntl(fd, F_GETFD)));
	say_of("dma-buf-read", answer(read(fd, &sync, 8)));
	say_of("dma-buf-mmap", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? error_name(errno) : "mapped");
	say_of("dma-buf-sync", answer(ioctl(fd, 0x40086200, &sync)));
	sync = 0;
	say_of("dma-buf-sync-nothing", answer(ioctl(fd, 0x40086200, &sync)));
	sync = 8;
	say_of("dma-buf-sync-unknown", answer(ioctl(fd, 0x40086200, &sync)));
	say_of("dma-buf-device-ioctl", answer(ioctl(fd, VFIO_DEVICE_RESET)));
	close(fd);
}

static void device_of(const char *name, const char *lower)
{
	struct door door = open_device(device(name), VFIO_TYPE1v2_IOMMU);

	d = door.device;
	role = lower;
	numbers();
	low_power();
	low_power_with_wakeup();
	dma_bufs();
	close_door(&door);
}

int main(void)
{
	device_of("EDU", "edu");
	device_of("NVME", "nvme");
	device_of("NIC", "nic");
	return 0;
}
