/*
 * Devices: info, regions, interrupt indexes, reads and writes of the device descriptor, and configuration space as
 * vfio-pci virtualises it. Facts of one particular model are printed only for edu, which is the same everywhere.
 */
#include "client.h"

static int d;
static uint64_t cfg;

#define CONFIG VFIO_PCI_CONFIG_REGION_INDEX

static uint32_t get(unsigned off, unsigned bytes)
{
	uint32_t v = 0;

	if (pread(d, &v, bytes, cfg + off) != (ssize_t)bytes)
		return 0xdeadbeef;
	return v;
}

static int put(unsigned off, unsigned bytes, uint32_t v)
{
	return pwrite(d, &v, bytes, cfg + off);
}

static void info_sizes(void)
{
	static const uint32_t sizes[] = { 0, 4, 15, 16, 17, 19, 20, 24, 64, 0xffffffff };
	char name[64];

	for (unsigned i = 0; i < COUNT(sizes); i++) {
		union {
			struct vfio_device_info info;
			unsigned char bytes[128];
		} a;
		unsigned written = 0;
		int ret;

		memset(&a, 0xa5, sizeof(a));
		a.info.argsz = sizes[i];
		ret = ioctl(d, VFIO_DEVICE_GET_INFO, &a);
		for (unsigned j = 4; j < sizeof(a); j++)
			if (a.bytes[j] != 0xa5)
				written = j + 1;
		snprintf(name, sizeof(name), "info-argsz-%u", sizes[i]);
		if (ret)
			say(name, "%s, written %u", answer(ret), written);
		else
			say(name, "0, argsz %u flags %#x regions %u irqs %u, written %u", a.info.argsz, a.info.flags & ~1u,
			    a.info.num_regions, a.info.num_irqs, written);
	}
	say("info-null", "%s", answer(ioctl(d, VFIO_DEVICE_GET_INFO, NULL)));
}

static void regions(int all)
{
	char name[64];

	for (unsigned i = 0; i <= 12; i++) {
		struct vfio_region_info r = { .argsz = sizeof(r), .index = i };
		int ret = ioctl(d, VFIO_DEVICE_GET_REGION_INFO, &r);

		snprintf(name, sizeof(name), "region-%u", i);
		if (ret)
			say(name, "%s", answer(ret));
		else if (all)
			say(name, "argsz %u flags %#x size %#llx offset %#llx", r.argsz, r.flags,
			    (unsigned long long)r.size, (unsigned long long)r.offset);
		else
			say(name, "offset %#llx", (unsigned long long)r.offset);
	}
}

static void region_sizes(void)
{
	static const uint32_t sizes[] = { 0, 8, 31, 32, 33, 64 };
	char name[64];

	for (unsigned i = 0; i < COUNT(sizes); i++) {
		struct {
			struct vfio_region_info r;
			char tail[64];
		} a = { .r = { .argsz = sizes[i], .index = CONFIG, .flags = 0xffffffff } };
		int ret = ioctl(d, VFIO_DEVICE_GET_REGION_INFO, &a);

		snprintf(name, sizeof(name), "region-argsz-%u", sizes[i]);
		say(name, "%s, argsz %u flags %#x", answer(ret), a.r.argsz, a.r.flags);
	}
	say("region-null", "%s", answer(ioctl(d, VFIO_DEVICE_GET_REGION_INFO, NULL)));
}

static void irqs(void)
{
	static const uint32_t sizes[] = { 0, 8, 15, 16, 17 };
	char name[64];

	for (unsigned i = 0; i <= 7; i++) {
		struct vfio_irq_info q = { .argsz = sizeof(q), .index = i };
		int ret = ioctl(d, VFIO_DEVICE_GET_IRQ_INFO, &q);

		snprintf(name, sizeof(name), "irq-%u", i);
		if (ret)
			say(name, "%s", answer(ret));
		else
			say(name, "argsz %u flags %#x count %u", q.argsz, q.flags, q.count);
	}
	for (unsigned i = 0; i < COUNT(sizes); i++) {
		struct vfio_irq_info q = { .argsz = sizes[i], .index = 0 };

		snprintf(name, sizeof(name), "irq-argsz-%u", sizes[i]);
		say(name, "%s", answer(ioctl(d, VFIO_DEVICE_GET_IRQ_INFO, &q)));
	}
	say("irq-null", "%s", answer(ioctl(d, VFIO_DEVICE_GET_IRQ_INFO, NULL)));
}

static void numbers(void)
{
	static const unsigned n[] = { 0, 99, 100, 101, 102, 103, 104, 105, 106, 113, 114, 115, 116, 117, 255 };
	char name[64];

	for (unsigned i = 0; i < COUNT(n); i++) {
		snprintf(name, sizeof(name), "command-%u-null", n[i]);
		say(name, "%s", answer(ioctl(d, _IO(VFIO_TYPE, n[i]), NULL)));
	}
}

/* Reads and writes of odd sizes and places. */
static void config_access(void)
{
	struct vfio_region_info r = region(d, CONFIG);
	static const unsigned sizes[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 64, 256 };
	unsigned char buf[8192], twice[256];
	char name[64];

	for (unsigned i = 0; i < COUNT(sizes); i++) {
		snprintf(name, sizeof(name), "config-read-%u", sizes[i]);
		say(name, "%s", answer(pread(d, buf, sizes[i], cfg)));
	}
	for (unsigned off = 1; off < 4; off++)
		for (unsigned n = 1; n <= 5; n++) {
			snprintf(name, sizeof(name), "config-read-%u-at-%u", n, off);
			say(name, "%s", answer(pread(d, buf, n, cfg + off)));
		}
	say("config-read-all", "%s", pread(d, buf, r.size, cfg) == (ssize_t)r.size ? "size of region" : answer(-1));
	say("config-read-more-than-all", "%s",
	    pread(d, buf, r.size + 64, cfg) == (ssize_t)r.size ? "size of region" : answer(-1));
	say("config-read-last", "%s", answer(pread(d, buf, 1, cfg + r.size - 1)));
	say("config-read-across-end", "%s", answer(pread(d, buf, 8, cfg + r.size - 4)));
	say("config-read-at-end", "%s", answer(pread(d, buf, 1, cfg + r.size)));
	say("config-read-beyond", "%s", answer(pread(d, buf, 4, cfg + r.size + 4096)));
	say("config-read-far-beyond", "%s", answer(pread(d, buf, 4, cfg + (1ull << 39))));
	say("region-9-read", "%s", answer(pread(d, buf, 4, 9ull << 40)));
	say("region-100-read", "%s", answer(pread(d, buf, 4, 100ull << 40)));
	say("vga-read", "%s", answer(pread(d, buf, 4, 8ull << 40)));
	say("negative-offset-read", "%s", answer(pread(d, buf, 4, -4)));
	say("config-read-null", "%s", answer(pread(d, NULL, 4, cfg)));
	say("config-write-null", "%s", answer(pwrite(d, NULL, 4, cfg + 4)));
	say("config-write-nothing", "%s", answer(pwrite(d, buf, 0, cfg)));
	say("read-without-offset", "%s", answer(read(d, buf, 4)));
	say("lseek", "%s", answer(lseek(d, cfg, SEEK_SET)));
	for (unsigned i = 0; i < 256; i++)
		pread(d, twice + i, 1, cfg + i);
	pread(d, buf, 256, cfg);
	say("config-bytes-equal-block", "%s", memcmp(buf, twice, 256) ? "no" : "yes");
}

/* Writes all ones, then zeroes, to each dword of the header, and shows which bits took it. */
static void header_masks(void)
{
	char name[64];

	for (unsigned off = 0; off < 0x40; off += 4) {
		uint32_t before, ones, zeroes;

		if (off == 4)
			continue;
		before = get(off, 4);
		put(off, 4, 0xffffffff);
		ones = get(off, 4);
		put(off, 4, 0);
		zeroes = get(off, 4);
		put(off, 4, before);
		snprintf(name, sizeof(name), "header-0x%02x", off);
		if (off >= 0x10 && off < 0x28)
			say(name, "ones 0x%08x zeroes 0x%08x", ones, zeroes);
		else
			say(name, "0x%08x ones 0x%08x zeroes 0x%08x", before, ones, zeroes);
		if (off < 0x10 || off >= 0x28)
			say(name, "%s", get(off, 4) == before ? "as it was" : "changed");
	}
}

static void command_register(void)
{
	static const uint16_t values[] = {
		0, 1, 2, 4, 6, 7, 8, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800, 0xf800, 0xffff, 6, 0,
	};
	char name[64];

	say("command-after-open", "0x%04x", get(4, 2));
	say("bus-master-after-open", "%u", get(4, 2) >> 2 & 1);
	for (unsigned i = 0; i < COUNT(values); i++) {
		put(4, 2, values[i]);
		snprintf(name, sizeof(name), "command-%u-written-%#x", i, values[i]);
		say(name, "0x%04x", get(4, 2));
	}
	put(4, 1, 6);
	put(5, 1, 4);
	say("command-by-bytes", "0x%04x", get(4, 2));
	put(4, 4, 0xffff0000);
	say("command-by-dword", "0x%04x", get(4, 2));
	say("status-after-ones", "0x%04x", get(6, 2));
}

static void capability_list(int ids)
{
	unsigned at = get(0x34, 1), n = 0;
	char name[64];

	say("has-capabilities", "%u", get(6, 2) >> 4 & 1);
	while (at && n++ < 48) {
		snprintf(name, sizeof(name), "capability-%u", n);
		if (ids)
			say(name, "id %#x at %#x next %#x", get(at, 1), at, get(at + 1, 1));
		at = get(at + 1, 1) & ~3u;
	}
	say("capability-list-ends", "%s", at ? "no" : "yes");
}

static unsigned find_capability(unsigned id)
{
	unsigned at = get(0x34, 1), n = 0;

	while (at && n++ < 48) {
		if (get(at, 1) == id)
			return at;
		at = get(at + 1, 1) & ~3u;
	}
	return 0;
}

/* Which bits of an MSI capability take a write. */
static void msi_capability(void)
{
	unsigned at = find_capability(5);

	if (!at) {
		say("msi", "none");
		return;
	}
	for (unsigned off = 0; off < 0x10; off += 4) {
		uint32_t before = get(at + off, 4), ones, zeroes;
		char name[64];

		put(at + off, off == 12 ? 2 : 4, off ? 0xffffffff : 0xfffeffff);
		ones = get(at + off, 4);
		put(at + off, 4, 0);
		zeroes = get(at + off, 4);
		put(at + off, 4, before);
		snprintf(name, sizeof(name), "msi-0x%02x", off);
		say(name, "0x%08x ones 0x%08x zeroes 0x%08x", before, ones, zeroes);
	}
	put(at + 2, 2, get(at + 2, 2) | 1);
	say("msi-enable-without-irq", "%u", get(at + 2, 2) & 1);
	put(at + 2, 2, get(at + 2, 2) & ~1u);
}

static void msix_capability(void)
{
	unsigned at = find_capability(0x11);

	if (!at) {
		say("msix", "none");
		return;
	}
	say("msix-vectors", "%u", (get(at + 2, 2) & 0x7ff) + 1);
	put(at + 2, 2, 0xffff);
	say("msix-control-ones", "0x%04x", get(at + 2, 2) & 0xf800);
	put(at + 2, 2, 0);
	say("msix-control-zeroes", "0x%04x", get(at + 2, 2) & 0xf800);
	uint32_t table = get(at + 4, 4), pba = get(at + 8, 4);
	put(at + 4, 4, ~table);
	put(at + 8, 4, ~pba);
	say("msix-table-is-read-only", "%s", get(at + 4, 4) == table && get(at + 8, 4) == pba ? "yes" : "no");
}

/* The kernel finds out a BAR's size and the client must be able to do the same, on a copy. */
static void bar_sizing(int all)
{
	char name[64];

	for (unsigned i = 0; i < 6; i++) {
		struct vfio_region_info r = region(d, i);
		uint32_t before = get(0x10 + 4 * i, 4), mask;

		put(0x10 + 4 * i, 4, 0xffffffff);
		mask = get(0x10 + 4 * i, 4);
		snprintf(name, sizeof(name), "bar-%u", i);
		if (all)
			say(name, "mask 0x%08x", mask);
		if (r.size && !(mask & 1) && r.size < (1ull << 32))
			say(name, "%s", (uint32_t)-(mask & ~0xfu) == r.size ? "mask is the region's size" : "mask differs");
		put(0x10 + 4 * i, 4, 0x12345678);
		if (all)
			say(name, "holds 0x%08x", get(0x10 + 4 * i, 4));
		put(0x10 + 4 * i, 4, before);
		say(name, "%s", get(0x10 + 4 * i, 4) == before ? "restored" : "not restored");
	}
	put(0x30, 4, 0xffffffff);
	say("rom", "mask 0x%08x", get(0x30, 4));
	put(0x30, 4, 0);
}

static void bar_access(void)
{
	struct vfio_region_info r = region(d, 0);
	uint32_t v = 0;
	char name[64];
	unsigned char buf[64];

	put(4, 2, 0);
	say("bar-read-memory-off", "%s", answer(pread(d, &v, 4, r.offset)));
	put(4, 2, 2);
	say("bar-read-memory-on", "%s", answer(pread(d, &v, 4, r.offset)));
	for (unsigned n = 1; n <= 16; n++) {
		snprintf(name, sizeof(name), "bar-read-%u", n);
		say(name, "%s", answer(pread(d, buf, n, r.offset)));
	}
	say("bar-read-3-at-1", "%s", answer(pread(d, buf, 3, r.offset + 1)));
	say("bar-read-across-end", "%s", answer(pread(d, buf, 8, r.offset + r.size - 4)));
	say("bar-read-at-end", "%s", answer(pread(d, buf, 4, r.offset + r.size)));
	say("bar-read-beyond", "%s", answer(pread(d, buf, 4, r.offset + r.size + 4096)));
	say("bar-read-null", "%s", answer(pread(d, NULL, 4, r.offset)));
	say("rom-read", "%s", answer(pread(d, buf, 4, 6ull << 40)));
	say("absent-bar-read", "%s", answer(pread(d, buf, 4, 5ull << 40)));
	say("absent-bar-write", "%s", answer(pwrite(d, buf, 4, 5ull << 40)));
	put(4, 2, 0);
}

static void reset(const char *when)
{
	char name[64];

	put(4, 2, 6);
	snprintf(name, sizeof(name), "reset-%s", when);
	say(name, "%s", answer(ioctl(d, VFIO_DEVICE_RESET)));
	snprintf(name, sizeof(name), "reset-%s-command", when);
	say(name, "0x%04x", get(4, 2));
}

static void hot_reset(void)
{
	struct {
		struct vfio_pci_hot_reset_info i;
		struct vfio_pci_dependent_device devices[16];
	} a = { .i = { .argsz = sizeof(a.i) } };
	int ret = ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &a);

	say("hot-reset-info-short", "%s, count %u", answer(ret), a.i.count);
	a.i.argsz = sizeof(a);
	ret = ioctl(d, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &a);
	say("hot-reset-info", "%s, count %u", answer(ret), a.i.count);
}

static void features(void)
{
	struct vfio_device_feature f = { .argsz = sizeof(f) };
	char name[64];

	for (unsigned i = 0; i <= 12; i++) {
		f.flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET | i;
		snprintf(name, sizeof(name), "feature-%u-probe-get", i);
		say(name, "%s", answer(ioctl(d, VFIO_DEVICE_FEATURE, &f)));
	}
	f.flags = 0;
	say("feature-no-flags", "%s", answer(ioctl(d, VFIO_DEVICE_FEATURE, &f)));
}

int main(void)
{
	static const char *const roles[] = { "EDU", "NVME", "NIC" };

	for (unsigned i = 0; i < COUNT(roles); i++) {
		struct door door = open_device(device(roles[i]), VFIO_TYPE1v2_IOMMU);
		int edu = i == 0;

		snprintf(prefix, sizeof(prefix), "%s-", edu ? "edu" : i == 1 ? "nvme" : "nic");
		d = door.device;
		cfg = region(d, CONFIG).offset;
		if (edu) {
			info_sizes();
			region_sizes();
			numbers();
		}
		regions(edu);
		irqs();
		config_access();
		command_register();
		capability_list(edu);
		if (edu) {
			header_masks();
			msi_capability();
		}
		msix_capability();
		bar_sizing(edu);
		bar_access();
		reset("first");
		hot_reset();
		features();
		close_door(&door);
	}
	return 0;
}
