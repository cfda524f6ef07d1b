/*
 * No-IOMMU mode: group nodes of another name, a container that maps nothing, and a device that is given physical
 * addresses, which the program finds in /proc/self/pagemap. edu drives 28 address bits: the memory must lie low.
 */
#include "edu.h"
#include "iommufd.h"

static int open_noiommu(int number)
{
	char path[64];

	snprintf(path, sizeof(path), "/dev/vfio/noiommu-%d", number);
	return open(path, O_RDWR | O_CLOEXEC);
}

static void line_of(const char *name, const char *format, ...)
{
	char path[PATH_MAX], line[256] = "";
	va_list ap;
	FILE *f;

	va_start(ap, format);
	vsnprintf(path, sizeof(path), format, ap);
	va_end(ap);
	f = fopen(path, "r");
	if (!f) {
		say(name, "%s", answer(-1));
		return;
	}
	if (fgets(line, sizeof(line), f))
		line[strcspn(line, "\n")] = 0;
	fclose(f);
	say(name, "'%s'", line);
}

static void nodes(int number)
{
	char path[PATH_MAX];
	struct stat st;

	line_of("mode", "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
	line_of("group-name", "/sys/kernel/iommu_groups/%d/name", number);
	line_of("group-type", "/sys/kernel/iommu_groups/%d/type", number);
	line_of("group-reserved-regions", "/sys/kernel/iommu_groups/%d/reserved_regions", number);
	snprintf(path, sizeof(path), "/sys/class/vfio/noiommu-%d", number);
	say("class-entry", "%s", answer(access(path, F_OK)));
	snprintf(path, sizeof(path), "/sys/class/vfio/%d", number);
	say("class-entry-without-prefix", "%s", answer(access(path, F_OK)));
	snprintf(path, sizeof(path), "/dev/vfio/%d", number);
	say("open-without-prefix", "%s", tried(open(path, O_RDWR)));
	say("open", "%s", tried(open_noiommu(number)));
	say("open-no-such", "%s", tried(open_noiommu(4000)));
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu", device("EDU"));
	say("device-iommu", "%s", answer(access(path, F_OK)));
	say("alone-in-its-group", "%s", group_number(device("MF0")) != group_number(device("MF1")) ? "yes" : "no");
	say("opened-twice", "%s", ({
		int g = open_noiommu(number), again = open_noiommu(number);
		const char *text = tried(again);

		fstat(g, &st);
		close(g);
		text;
	}));
	say("fstat", "%s", S_ISCHR(st.st_mode) ? "character device" : "something else");
}

static void extensions(const char *when, int c)
{
	char name[64];

	for (unsigned e = 0; e <= 11; e++) {
		snprintf(name, sizeof(name), "%s-check-extension-%u", when, e);
		say(name, "%s", answer(ioctl(c, VFIO_CHECK_EXTENSION, e)));
	}
}

static void status(const char *name, int g)
{
	struct vfio_group_status s = { .argsz = sizeof(s) };
	int ret = ioctl(g, VFIO_GROUP_GET_STATUS, &s);

	say(name, "%s, flags %#x", answer(ret), s.flags);
}

static void commands(const char *when, int c)
{
	struct vfio_iommu_type1_info info = { .argsz = sizeof(info) };
	char name[64], *m = pages(PAGE);

	snprintf(name, sizeof(name), "%s-get-info", when);
	say(name, "%s", answer(ioctl(c, VFIO_IOMMU_GET_INFO, &info)));
	snprintf(name, sizeof(name), "%s-map", when);
	say(name, "%s", answer(map(c, MIB(1), m, PAGE, READ | WRITE)));
	snprintf(name, sizeof(name), "%s-unmap", when);
	say(name, "%s", answer(unmap(c, MIB(1), PAGE, NULL)));
	snprintf(name, sizeof(name), "%s-api-version", when);
	say(name, "%s", answer(ioctl(c, VFIO_GET_API_VERSION)));
	munmap(m, PAGE);
}

/* The physical address of a page that is there. */
static uint64_t physical(const volatile void *va)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)va / PAGE * 8) != 8)
		die("pagemap");
	close(fd);
	return (entry & ((1ull << 55) - 1)) * PAGE;
}

/* `n` locked pages whose bus addresses edu can drive. */
static void low_pages(volatile unsigned char **pages_of, unsigned n)
{
	unsigned found = 0;

	for (unsigned i = 0; i < 4096 && found < n; i++) {
		volatile unsigned char *p = mmap((void *)(MIB(128) + i * PAGE), PAGE, PROT_READ | PROT_WRITE,
						 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (p == MAP_FAILED)
			continue;
		p[0] = 1;
		mlock((void *)p, PAGE);
		if (physical(p) < (1 << 28))
			pages_of[found++] = p;
	}
	if (found < n)
		die("no low pages");
}

static void dma(struct door *door)
{
	volatile unsigned char *p[3];
	unsigned same = 1;

	low_pages(p, 3);
	for (unsigned i = 0; i < PAGE; i++) {
		p[0][i] = i * 7;
		p[1][i] = p[2][i] = 0xee;
	}
	edu_open(door);
	say("dma-in", "%s", answer(edu_transfer(physical(p[0]), EDU_BUFFER, 256, 0)));
	say("dma-out", "%s", answer(edu_transfer(EDU_BUFFER, physical(p[1]) + 64, 256, EDU_TO_MEMORY)));
	for (unsigned i = 0; i < 256; i++)
		same &= p[1][64 + i] == (unsigned char)(i * 7);
	say("data-arrived", "%s", same ? "yes" : "no");
	say("page-before-and-after-intact", "%s", p[1][63] == 0xee && p[1][64 + 256] == 0xee ? "yes" : "no");
	say("other-page-intact", "%s", p[2][0] == 0xee && p[2][PAGE - 1] == 0xee ? "yes" : "no");
	edu_command_register(2);
	edu_transfer(EDU_BUFFER, physical(p[2]), 256, EDU_TO_MEMORY);
	say("page-intact-without-bus-master", "%s", p[2][0] == 0xee ? "yes" : "no");
	munmap((void *)edu_bar, region(edu_device, 0).size);
}

/* A device's own node is not there, only its directory. */
static void no_node(const char *bdf)
{
	char path[PATH_MAX], name[32];

	node_name(bdf, name);
	line_of("vfio-dev-number", "/sys/bus/pci/devices/%s/vfio-dev/%s/dev", bdf, name);
	line_of("vfio-dev-uevent", "/sys/bus/pci/devices/%s/vfio-dev/%s/uevent", bdf, name);
	snprintf(path, sizeof(path), "/sys/class/vfio-dev/%s", name);
	say("vfio-dev-class", "%s", answer(access(path, F_OK)));
	say("vfio-dev-directory", "%s", answer(access("/dev/vfio/devices", F_OK)));
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", name);
	say("vfio-dev-node", "%s", tried(open(path, O_RDWR)));
}

static int vfio_ioas(int iommu, int op, uint32_t id)
{
	struct vfio_ioas v = { .ioas_id = id, .op = op };

	return COMMAND(iommu, VFIO_IOAS, &v);
}

static void set_iommu(const char *when, int fd)
{
	static const unsigned kinds[] = { 0, 1, 3, 8, 8, 9 };
	char name[64];

	for (unsigned i = 0; i < COUNT(kinds); i++) {
		snprintf(name, sizeof(name), "%s-set-iommu-%u", when, kinds[i]);
		say(name, "%s", answer(ioctl(fd, VFIO_SET_IOMMU, kinds[i])));
	}
}

/* /dev/iommu in the container's place. */
static void by_iommufd(int number)
{
	int iommu = open_iommu(), g = open_noiommu(number), other, again;
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_pci_hot_reset_info reset = { .argsz = sizeof(reset) };
	struct bind b = { .argsz = 16, .iommufd = iommu };
	struct door door = { .container = iommu, .group = g };
	uint32_t ioas;

	extensions("fresh", iommu);
	set_iommu("fresh", iommu);
	say("set-container", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &iommu)));
	say("set-container-again", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &iommu)));
	status("joined-status", g);
	extensions("joined", iommu);
	commands("joined", iommu);
	say("joined-get-ioas", "%s", answer(vfio_ioas(iommu, 0, 0)));
	say("get-device", "%s", opened(door.device = ioctl(g, VFIO_GROUP_GET_DEVICE_FD, device("EDU"))));
	set_iommu("joined", iommu);
	say("device-get-info", "%s", answer(ioctl(door.device, VFIO_DEVICE_GET_INFO, &info)));
	say("device-hot-reset-info", "%s", answer(ioctl(door.device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &reset)));
	say("device-bind", "%s", answer(ioctl(door.device, BIND, &b)));
	dma(&door);
	other = open_noiommu(group_number(device("NVME")));
	say("second-group-joins", "%s", answer(ioctl(other, VFIO_GROUP_SET_CONTAINER, &iommu)));
	ioas = ioas_alloc(iommu);
	say("set-ioas", "%s", answer(vfio_ioas(iommu, 1, ioas)));
	set_iommu("with-ioas", iommu);
	commands("with-ioas", iommu);
	say("get-open-device", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, device("EDU"))));
	say("get-other-device", "%s", tried(ioctl(other, VFIO_GROUP_GET_DEVICE_FD, device("NVME"))));
	say("clear-ioas", "%s", answer(vfio_ioas(iommu, 2, 0)));
	say("get-other-device-now", "%s", tried(ioctl(other, VFIO_GROUP_GET_DEVICE_FD, device("NVME"))));
	say("unset-with-device-open", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	status("left-status", g);
	say("left-device-get-info", "%s", answer(ioctl(door.device, VFIO_DEVICE_GET_INFO, &info)));
	close(g);
	again = open_noiommu(number);
	say("open-with-device-open", "%s", opened(again));
	close(again);
	close(door.device);
	close(other);
	close(iommu);

	iommu = open_iommu();
	ioas = ioas_alloc(iommu);
	vfio_ioas(iommu, 1, ioas);
	g = open_noiommu(number);
	say("set-container-with-ioas", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &iommu)));
	status("refused-status", g);
	say("destroy-ioas", "%s", answer(destroy(iommu, ioas)));
	say("set-container-without", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &iommu)));
	close(g);
	extensions("group-closed", iommu);
	close(iommu);
}

int main(void)
{
	int number = group_number(device("EDU")), c = open_container(), g, other;
	static const unsigned kinds[] = { 0, 1, 3, 8, 9, 10 };
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct door door = { .container = c, .device = -1 };
	char name[64];

	nodes(number);
	extensions("fresh", c);
	commands("fresh", c);
	door.group = g = open_noiommu(number);
	status("fresh-status", g);
	say("set-container", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c)));
	status("joined-status", g);
	extensions("joined", c);
	commands("joined", c);
	say("get-device-before-set-iommu", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, device("EDU"))));
	for (unsigned i = 0; i < COUNT(kinds); i++) {
		snprintf(name, sizeof(name), "set-iommu-%u", kinds[i]);
		say(name, "%s", answer(ioctl(c, VFIO_SET_IOMMU, kinds[i])));
	}
	extensions("set", c);
	commands("set", c);
	status("set-status", g);
	say("get-device", "%s", opened(door.device = ioctl(g, VFIO_GROUP_GET_DEVICE_FD, device("EDU"))));
	say("device-get-info", "%s", answer(ioctl(door.device, VFIO_DEVICE_GET_INFO, &info)));
	say("device-info", "flags %#x regions %u irqs %u", info.flags & ~1u, info.num_regions, info.num_irqs);
	dma(&door);
	other = open_noiommu(group_number(device("NVME")));
	say("second-group-joins", "%s", answer(ioctl(other, VFIO_GROUP_SET_CONTAINER, &c)));
	say("unset-with-device-open", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	close(door.device);
	say("unset-container", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	commands("one-left", c);
	close(other);
	commands("all-left", c);
	close_door(&(struct door){ .container = c, .group = g, .device = -1 });
	no_node(device("EDU"));
	snprintf(prefix, sizeof(prefix), "iommufd/");
	by_iommufd(number);
	return 0;
}
