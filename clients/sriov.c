/*
 * Virtual functions: how many there can be and are, what they look like, and who may open them.
 */
#include "iommufd.h"

static const char *pf;
static char vf[16];

/* Writes to an attribute as `echo` does, without the newline. */
static int put(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY), ret, error;

	if (fd < 0)
		return -1;
	ret = write(fd, value, strlen(value)) == (ssize_t)strlen(value) ? 0 : -1;
	error = errno;
	close(fd);
	errno = error;
	return ret;
}

static const char *path_of(const char *bdf, const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	return path;
}

static void numvfs(const char *name, const char *value)
{
	say(name, "%s", answer(put(path_of(pf, "sriov_numvfs"), value)));
}

static void line(const char *name, const char *bdf, const char *attribute)
{
	char text[64] = "";
	FILE *f = fopen(path_of(bdf, attribute), "r");

	if (!f) {
		say(name, "%s", answer(-1));
		return;
	}
	if (fgets(text, sizeof(text), f))
		text[strcspn(text, "\n")] = 0;
	fclose(f);
	say(name, "'%s'", text);
}

/* The last part of a link, "" if there is none. */
static void link_of(const char *bdf, const char *name, char target[16])
{
	char link[PATH_MAX] = "", *last;

	target[0] = 0;
	if (readlink(path_of(bdf, name), link, sizeof(link) - 1) > 0 && (last = strrchr(link, '/')))
		snprintf(target, 16, "%.15s", last + 1);
}

static void numbers(void)
{
	static const char *const bad[] = { "x", "-1", "9", "65535", "65536", "1 ", "0x", "1\n\n" };
	static const char parameter[] = "/sys/module/vfio_pci/parameters/enable_sriov";
	char name[32];

	line("total", pf, "sriov_totalvfs");
	line("number", pf, "sriov_numvfs");
	line("autoprobe", pf, "sriov_drivers_autoprobe");
	say("not-enabled", "%s", answer(put(parameter, "N")));
	numvfs("not-enabled-1", "1");
	numvfs("not-enabled-0", "0");
	numvfs("not-enabled-9", "9");
	say("enabled", "%s", answer(put(parameter, "1")));
	for (unsigned i = 0; i < COUNT(bad); i++) {
		snprintf(name, sizeof(name), "bad-%u", i);
		numvfs(name, bad[i]);
	}
	line("number-after", pf, "sriov_numvfs");
	numvfs("hexadecimal-with-newline", "0x2\n");
	line("number-of-two", pf, "sriov_numvfs");
	numvfs("the-same-again", "2");
	numvfs("another", "1");
	numvfs("another-beyond", "9");
	numvfs("none", "0");
	numvfs("none-again", "0");
	say("gone", "%s", answer(access(path_of(pf, "virtfn0"), F_OK)));
}

static void places(void)
{
	char target[16];

	numvfs("two", "2");
	link_of(pf, "virtfn0", vf);
	if (!vf[0])
		die("virtfn0");
	say("third", "%s", answer(access(path_of(pf, "virtfn2"), F_OK)));
	link_of(vf, "physfn", target);
	say("physical", "%s", strcmp(target, pf) ? "another" : "it");
	link_of(vf, "driver", target);
	say("driver", "%s", target);
	line("override", vf, "driver_override");
	say("virtual-of-virtual", "%s", answer(access(path_of(vf, "sriov_numvfs"), F_OK)));
	say("physical-of-physical", "%s", answer(access(path_of(pf, "physfn"), F_OK)));
	say("vectors", "%s", answer(put(path_of(vf, "sriov_vf_msix_count"), "1")));
	say("own-group", "%s", group_number(vf) == group_number(pf) ? "no" : "yes");
	say("bind-where-it-is", "%s", answer(put("/sys/bus/pci/drivers/vfio-pci/bind", vf)));
	say("unbind", "%s", answer(put("/sys/bus/pci/drivers/vfio-pci/unbind", vf)));
	say("bind", "%s", answer(put("/sys/bus/pci/drivers/vfio-pci/bind", vf)));
}

static const unsigned char FIRST[16] = { 0x52, 0xac, 0x9b, 0xff, 0x3a, 0x88, 0x4f, 0xbd,
					 0x90, 0x1a, 0x0d, 0x76, 0x7c, 0x3b, 0x6c, 0x97 };
static const unsigned char OTHER[16] = { 0x88, 0x59 };
#define FIRST_TEXT "vf_token=52ac9bff-3a88-4fbd-901a-0d767c3b6c97"
#define OTHER_TEXT "vf_token=88590000-0000-0000-0000-000000000000"

static int open_by_node(const char *bdf, int iommu, const unsigned char *token)
{
	struct bind b = { .argsz = sizeof(b), .flags = !!token, .iommufd = iommu, .token_uuid_ptr = (uintptr_t)token };
	int fd = open_node(bdf), error;

	if (!ioctl(fd, BIND, &b))
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

static void by_nodes(void)
{
	int iommu = open_iommu(), p, v;

	say("virtual-before-any-token", "%s", tried(open_by_node(vf, iommu, FIRST)));
	say("virtual-without-before", "%s", tried(open_by_node(vf, iommu, NULL)));
	say("physical-without", "%s", tried(open_by_node(pf, iommu, NULL)));
	say("physical", "%s", opened(p = open_by_node(pf, iommu, FIRST)));
	say("virtual-without", "%s", tried(open_by_node(vf, iommu, NULL)));
	say("virtual-with-another", "%s", tried(open_by_node(vf, iommu, OTHER)));
	say("virtual", "%s", opened(v = open_by_node(vf, iommu, FIRST)));
	close(p);
	say("physical-closed-without", "%s", tried(open_by_node(pf, iommu, NULL)));
	say("physical-closed-another", "%s", tried(open_by_node(pf, iommu, OTHER)));
	say("physical-closed-same", "%s", tried(open_by_node(pf, iommu, FIRST)));
	close(v);
	say("physical-changes-it", "%s", tried(open_by_node(pf, iommu, OTHER)));
	say("virtual-with-the-old", "%s", tried(open_by_node(vf, iommu, FIRST)));
	say("virtual-with-the-new", "%s", tried(open_by_node(vf, iommu, OTHER)));
	close(iommu);
}

static int token_feature(int d, uint32_t flags, uint32_t argsz, const unsigned char token[16])
{
	struct {
		uint32_t argsz, flags;
		unsigned char token[16];
	} f = { .argsz = argsz, .flags = flags };

	memcpy(f.token, token, sizeof(f.token));
	return ioctl(d, _IO(';', 117), &f);
}

/* Opens a device by its group, in a container of its own. */
static struct door by_group(const char *bdf, const char *text)
{
	struct door door = { .container = open_container(), .group = open_group(bdf) };
	char name[80];
	int error;

	snprintf(name, sizeof(name), "%s%s%s", bdf, *text ? " " : "", text);
	ioctl(door.group, VFIO_GROUP_SET_CONTAINER, &door.container);
	ioctl(door.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);
	door.device = ioctl(door.group, VFIO_GROUP_GET_DEVICE_FD, name);
	error = errno;
	if (door.device < 0) {
		close(door.group);
		close(door.container);
	}
	errno = error;
	return door;
}

static void tried_by_group(const char *name, const char *bdf, const char *text)
{
	struct door door = by_group(bdf, text);

	say(name, "%s", opened(door.device));
	if (door.device >= 0)
		close_door(&door);
}

static void by_groups(void)
{
	enum { GET = 1 << 16, SET = 1 << 17, PROBE = 1 << 18 };
	struct door p = by_group(pf, FIRST_TEXT), v;

	say("physical", "%s", opened(p.device));
	tried_by_group("virtual-without", vf, "");
	tried_by_group("virtual-with-another", vf, OTHER_TEXT);
	tried_by_group("virtual-twice-the-token", vf, FIRST_TEXT " " FIRST_TEXT);
	tried_by_group("virtual-unknown-option", vf, "token=1");
	tried_by_group("virtual-half-a-token", vf, "vf_token=52ac9bff-3a88");
	tried_by_group("virtual-capitals", vf, "vf_token=52AC9BFF-3A88-4FBD-901A-0D767C3B6C97");
	tried_by_group("virtual", vf, FIRST_TEXT);
	say("feature-probe", "%s", answer(token_feature(p.device, SET | PROBE, 8, OTHER)));
	say("feature-probe-get", "%s", answer(token_feature(p.device, GET | PROBE, 8, OTHER)));
	say("feature-short", "%s", answer(token_feature(p.device, SET, 23, OTHER)));
	say("feature", "%s", answer(token_feature(p.device, SET, 24, OTHER)));
	tried_by_group("virtual-with-the-old", vf, FIRST_TEXT);
	v = by_group(vf, OTHER_TEXT);
	say("virtual-with-the-new", "%s", opened(v.device));
	say("feature-of-virtual", "%s", answer(token_feature(v.device, SET, 24, OTHER)));
	say("feature-while-virtual-is-open", "%s", answer(token_feature(p.device, SET, 24, FIRST)));
	close_door(&p);
	tried_by_group("physical-with-the-old", pf, OTHER_TEXT);
	tried_by_group("physical-with-the-new", pf, FIRST_TEXT);
	close_door(&v);
}

static void config(const char *name, int d, unsigned off, unsigned bytes)
{
	uint32_t value = 0;
	int n = pread(d, &value, bytes, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset + off);

	say(name, "%d, %#x", n, value);
}

static unsigned get16(int d, unsigned off)
{
	uint16_t value = 0xdead;

	pread(d, &value, 2, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset + off);
	return value;
}

/* A bit of the capability's control register: the port above routes by all eight bits. */
#define ARI 0x10u

/* What the configuration spaces say of each other, and what a virtual function lacks. */
static void spaces(void)
{
	struct door p = by_group(pf, FIRST_TEXT), v = by_group(vf, FIRST_TEXT);
	struct vfio_irq_info irq = { .argsz = sizeof(irq), .index = VFIO_PCI_INTX_IRQ_INDEX };
	uint32_t header = 0, at = 0x100;
	static const uint16_t commands[] = { 6, 0, 0xffff, 0 };
	uint16_t zero = 0;
	uint64_t base = region(p.device, VFIO_PCI_CONFIG_REGION_INDEX).offset;

	while (at && pread(p.device, &header, 4, base + at) == 4 && (header & 0xffff) != 0x10)
		at = header >> 20;
	say("capability", "%s", at ? "there" : "missing");
	say("control", "%#x", get16(p.device, at + 8) & ~ARI);
	config("initial", p.device, at + 0xc, 2);
	config("total", p.device, at + 0xe, 2);
	config("number", p.device, at + 0x10, 2);
	pwrite(p.device, &zero, 2, base + at + 8);
	pwrite(p.device, &zero, 2, base + at + 0x10);
	say("control-written", "%#x", get16(p.device, at + 8) & ~ARI);
	config("number-written", p.device, at + 0x10, 2);
	config("virtual-pin", v.device, 0x3d, 1);
	say("virtual-command", "%#x", get16(v.device, 4));
	for (unsigned i = 0; i < COUNT(commands); i++) {
		char name[40];

		snprintf(name, sizeof(name), "virtual-command-written-%#x", commands[i]);
		pwrite(v.device, &commands[i], 2, region(v.device, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4);
		say(name, "%#x", get16(v.device, 4));
	}
	say("virtual-intx", "%s, count %u", answer(ioctl(v.device, VFIO_DEVICE_GET_IRQ_INFO, &irq)), irq.count);
	say("virtual-vendor", "%s", ({
		uint16_t own = 0, other = 0;

		pread(p.device, &own, 2, base);
		pread(v.device, &other, 2, region(v.device, VFIO_PCI_CONFIG_REGION_INDEX).offset);
		own == other ? "as physical" : "another";
	}));
	close_door(&v);
	close_door(&p);
}

int main(void)
{
	pf = device("IGB");
#define PART(f) (snprintf(prefix, sizeof(prefix), #f "/"), f())
	PART(numbers);
	PART(places);
	PART(by_nodes);
	PART(by_groups);
	PART(spaces);
	numvfs("none", "0");
	say("virtual-is-gone", "%s", answer(access(path_of(vf, ""), F_OK)));
	return 0;
}
