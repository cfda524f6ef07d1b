/*
 * Hot reset through a device's own node: what the affected devices are called there, and which of them an iommufd owns.
 */
#include "hot_reset.h"
#include "iommufd.h"

static int reset_by(int d, uint32_t argsz, uint32_t flags, uint32_t count, int fd)
{
	struct {
		struct vfio_pci_hot_reset r;
		int32_t fds[2];
	} a = { .r = { .argsz = argsz, .flags = flags, .count = count } };

	memcpy(a.r.group_fds, (int[2]){ fd, fd }, sizeof(a.fds));
	return ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, &a);
}

/* Flags, and the id of every affected device. */
static void info(const char *name, int d, uint32_t argsz)
{
	struct info a;
	int ret;

	memset(&a, 0xa5, sizeof(a));
	a.i.argsz = argsz;
	ret = ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &a);
	say(name, "%s, flags %#x count %u", answer(ret), a.i.flags, a.i.count);
	if (!ret)
		for (unsigned i = 0; i < a.i.count; i++)
			say(name, "%s is %d", role_of(&a.devices[i]), (int)a.devices[i].group_id);
}

static void alone(const char *role)
{
	int iommu = open_iommu(), null = open("/dev/null", O_RDWR), d = open_node(device(role));
	static const uint32_t sizes[] = { 0, 11, 12, 19, 20, 28, 140 };
	char name[32];
	uint32_t id;

	say("info-unbound", "%s", answer(ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, NULL)));
	say("reset-unbound", "%s", answer(reset_by(d, 12, 0, 0, -1)));
	ioas_alloc(iommu);
	if (bind_to(d, iommu, &id))
		die("BIND_IOMMUFD of %s", role);
	for (unsigned i = 0; i < COUNT(sizes); i++) {
		snprintf(name, sizeof(name), "info-argsz-%u", sizes[i]);
		info(name, d, sizes[i]);
	}
	say("info-null", "%s", answer(ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, NULL)));
	say("null", "%s", answer(ioctl(d, VFIO_DEVICE_PCI_HOT_RESET, NULL)));
	say("argsz-11", "%s", answer(reset_by(d, 11, 0, 0, -1)));
	say("flags-1", "%s", answer(reset_by(d, 12, 1, 0, -1)));
	say("nothing-given", "%s", answer(reset_by(d, 12, 0, 0, -1)));
	say("nothing-given-argsz-20", "%s", answer(reset_by(d, 20, 0, 0, -1)));
	say("minus-one", "%s", answer(reset_by(d, 16, 0, 1, -1)));
	say("dev-null", "%s", answer(reset_by(d, 16, 0, 1, null)));
	say("iommufd", "%s", answer(reset_by(d, 16, 0, 1, iommu)));
	say("itself", "%s", answer(reset_by(d, 16, 0, 1, d)));
	say("count-all-ones", "%s", answer(reset_by(d, 16, 0, ~0u, d)));
	close(d);
	close(null);
	close(iommu);
}

static unsigned get32(int d, unsigned off)
{
	uint32_t v = 0xdead;

	pread(d, &v, 4, region(d, 0).offset + off);
	return v;
}

/* Two functions of one group: the second becomes the first one's by the group, then by its own binding. */
static void two(const char *first, const char *second)
{
	int iommu = open_iommu(), a = open_bound(device(first), iommu, NULL), b = open_node(device(second));
	uint32_t id, cc = 0x00460000;
	uint16_t command = 6;

	info("second-unbound", a, 140);
	say("second-unbound-reset", "%s", answer(reset_by(a, 12, 0, 0, -1)));
	bind_to(b, iommu, &id);
	info("both", a, 140);
	info("both-by-second", b, 140);
	if (!strcmp(second, "MF1")) {
		pwrite(b, &command, 2, region(b, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4);
		pwrite(b, &cc, 4, region(b, 0).offset + 0x14);
		say("configuration-before", "%#x", get32(b, 0x14));
	}
	say("both-reset", "%s", answer(reset_by(a, 12, 0, 0, -1)));
	if (!strcmp(second, "MF1"))
		say("configuration-after", "%#x", get32(b, 0x14));
	close(a);
	info("first-closed", b, 140);
	say("first-closed-reset", "%s", answer(reset_by(b, 12, 0, 0, -1)));
	close(b);
	close(iommu);
}

/* A group that has the iommufd for its container goes by group files. */
static void by_group(const char *role)
{
	int iommu = open_iommu(), group = open_group(device(role)), d;
	struct info a = { .i.argsz = sizeof(a) };
	int ret;

	say("set-container", "%s", answer(ioctl(group, VFIO_GROUP_SET_CONTAINER, &iommu)));
	d = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, device(role));
	say("device", "%s", opened(d));
	ret = ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &a);
	say("info", "%s, flags %#x count %u", answer(ret), a.i.flags, a.i.count);
	for (unsigned i = 0; i < a.i.count; i++)
		say("info", "%s, %s group", role_of(&a.devices[i]),
		    (int)a.devices[i].group_id == group_number(device(role)) ? "own" : "other");
	say("nothing-given", "%s", answer(reset_by(d, 12, 0, 0, -1)));
	say("own-group", "%s", answer(reset_by(d, 16, 0, 1, group)));
	close(d);
	close(group);
	close(iommu);
}

/* Writes an attribute of a function. */
static void write_attribute(const char *bdf, const char *name, const char *value)
{
	char path[PATH_MAX];
	int fd, ret;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	fd = open(path, O_WRONLY);
	ret = write(fd, value, strlen(value));
	say(name, "%s", answer(ret == (int)strlen(value) ? 0 : -1));
	close(fd);
}

static int bind_with(int d, int iommu, const unsigned char token[16])
{
	struct bind b = { .argsz = sizeof(b), .flags = 1, .iommufd = iommu, .token_uuid_ptr = (uintptr_t)token };

	return ioctl(d, BIND, &b);
}

/* Two groups below one port: a physical function and a virtual one. */
static void virtual_function(void)
{
	static const unsigned char token[16] = { 1, 2, 3 };
	const char *pf = device("IGB");
	int iommu = open_iommu(), other = open_iommu(), p, v;
	char path[PATH_MAX], link[PATH_MAX] = "", *vf;

	write_attribute(pf, "sriov_numvfs", "1");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/virtfn0", pf);
	readlink(path, link, sizeof(link) - 1);
	vf = strrchr(link, '/');
	if (!vf)
		die("%s", path);
	vf++;
	p = open_node(pf);
	v = open_node(vf);
	say("groups", "%s", group_number(pf) == group_number(vf) ? "one" : "two");
	say("bind-virtual", "%s", answer(bind_with(v, iommu, token)));
	say("bind-physical", "%s", answer(bind_with(p, iommu, token)));
	info("virtual-unbound", p, 140);
	say("virtual-unbound-reset", "%s", answer(reset_by(p, 12, 0, 0, -1)));
	say("bind-virtual-elsewhere", "%s", answer(bind_with(v, other, token)));
	info("virtual-elsewhere", p, 140);
	say("virtual-elsewhere-reset", "%s", answer(reset_by(p, 12, 0, 0, -1)));
	close(v);
	v = open_node(vf);
	say("bind-virtual-here", "%s", answer(bind_with(v, iommu, token)));
	info("virtual-here", p, 140);
	info("virtual-here-by-it", v, 140);
	say("virtual-here-reset", "%s", answer(reset_by(p, 12, 0, 0, -1)));
	say("virtual-here-reset-by-it", "%s", answer(reset_by(v, 12, 0, 0, -1)));
	close(v);
	close(p);
	close(iommu);
	close(other);
	write_attribute(pf, "sriov_numvfs", "0");
}

int main(void)
{
	static const char *const roles[] = { "EDU", "NVME", "NIC", "MF0", "BR0" };

	for (unsigned i = 0; i < COUNT(roles); i++) {
		snprintf(prefix, sizeof(prefix), "%s/", roles[i]);
		alone(roles[i]);
	}
	snprintf(prefix, sizeof(prefix), "MF/");
	two("MF0", "MF1");
	snprintf(prefix, sizeof(prefix), "BR/");
	two("BR1", "BR0");
	snprintf(prefix, sizeof(prefix), "group-NVME/");
	by_group("NVME");
	snprintf(prefix, sizeof(prefix), "SRIOV/");
	virtual_function();
	return 0;
}
