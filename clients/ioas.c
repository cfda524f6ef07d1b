/*
 * Address spaces of /dev/iommu: the size rule of all commands, IOAS_ALLOC, IOAS_MAP, IOAS_UNMAP, IOAS_IOVA_RANGES,
 * IOAS_ALLOW_IOVAS, IOAS_COPY and DESTROY, without a device.
 */
#include "iommufd.h"

static int iommu;

/* Each command with too little, with exactly the least, and with more than the kernel knows. */
static void sizes(void)
{
	static const struct { const char *name; unsigned nr, least; } commands[] = {
		{ "destroy", DESTROY, 8 },	       { "ioas-alloc", IOAS_ALLOC, 12 },
		{ "allow-iovas", IOAS_ALLOW_IOVAS, 24 }, { "copy", IOAS_COPY, 40 },
		{ "iova-ranges", IOAS_IOVA_RANGES, 32 }, { "map", IOAS_MAP, 40 },
		{ "unmap", IOAS_UNMAP, 24 },	       { "option", OPTION, 24 },
		{ "vfio-ioas", VFIO_IOAS, 12 },	       { "hwpt-alloc", HWPT_ALLOC, 40 },
		{ "hw-info", GET_HW_INFO, 40 },	       { "set-dirty", SET_DIRTY_TRACKING, 16 },
		{ "get-dirty", GET_DIRTY_BITMAP, 48 }, { "map-file", IOAS_MAP_FILE, 40 },
	};
	char name[64];

	for (unsigned i = 0; i < COUNT(commands); i++) {
		uint32_t room[64] = { commands[i].least - 1 };

		snprintf(name, sizeof(name), "%s-null", commands[i].name);
		say(name, "%s", answer(ioctl(iommu, NR(commands[i].nr), 0)));
		snprintf(name, sizeof(name), "%s-short", commands[i].name);
		say(name, "%s", answer(ioctl(iommu, NR(commands[i].nr), room)));
		room[0] = 256;
		room[63] = 1;
		snprintf(name, sizeof(name), "%s-long-not-zero", commands[i].name);
		say(name, "%s", answer(ioctl(iommu, NR(commands[i].nr), room)));
		room[0] = 1u << 30;
		snprintf(name, sizeof(name), "%s-longer-than-memory", commands[i].name);
		say(name, "%s", answer(ioctl(iommu, NR(commands[i].nr), room)));
	}
	say("unknown-7f", "%s", answer(ioctl(iommu, NR(0x7f), 0)));
	say("unknown-95", "%s", answer(ioctl(iommu, NR(0x95), 0)));
	say("unknown-ff", "%s", answer(ioctl(iommu, NR(0xff), 0)));
}

static void ids(void)
{
	struct ioas_alloc a = { .flags = 1 };
	uint32_t first, second;

	say("alloc-flag", "%s", answer(COMMAND(iommu, IOAS_ALLOC, &a)));
	first = ioas_alloc(iommu);
	second = ioas_alloc(iommu);
	say("two-ids", "%u %u", first, second);
	say("destroy-0", "%s", answer(destroy(iommu, 0)));
	say("destroy-999", "%s", answer(destroy(iommu, 999)));
	say("destroy-minus-1", "%s", answer(destroy(iommu, -1)));
	say("destroy-first", "%s", answer(destroy(iommu, first)));
	say("destroy-first-again", "%s", answer(destroy(iommu, first)));
	first = ioas_alloc(iommu);
	say("next-id", "%u", first);
	destroy(iommu, first);
	destroy(iommu, second);
}

static void mapping(void)
{
	uint32_t ioas = ioas_alloc(iommu);
	unsigned char *m = pages(8 * PAGE), *ro = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ioas_map map = { .flags = MAP_RW, .ioas_id = ioas, .user_va = (uintptr_t)m, .length = PAGE };
	uint64_t n;

	say("map-anywhere", "%s", answer(COMMAND(iommu, IOAS_MAP, &map)));
	say("aligned", "%d", !(map.iova % PAGE));
	say("map-ioas-999", "%s", answer(ioas_map(iommu, 999, MIB(1), m, PAGE)));
	say("map-fixed", "%s", answer(ioas_map(iommu, ioas, MIB(1), m, 2 * PAGE)));
	say("map-same-again", "%s", answer(ioas_map(iommu, ioas, MIB(1), m, 2 * PAGE)));
	say("map-around", "%s", answer(ioas_map(iommu, ioas, MIB(1) - PAGE, m, 4 * PAGE)));
	say("map-length-0", "%s", answer(ioas_map(iommu, ioas, MIB(2), m, 0)));
	say("map-length-1", "%s", answer(ioas_map(iommu, ioas, MIB(2), m, 1)));
	say("map-beside-that-byte", "%s", answer(ioas_map(iommu, ioas, MIB(2) + 1, m, 1)));
	say("map-odd-iova-and-va", "%s", answer(ioas_map(iommu, ioas, MIB(3) + 5, m + 5, PAGE)));
	say("map-wraps", "%s", answer(ioas_map(iommu, ioas, -PAGE, m, 2 * PAGE)));
	say("map-last-page", "%s", answer(ioas_map(iommu, ioas, -PAGE, m, PAGE)));
	say("map-va-wraps", "%s", answer(ioas_map(iommu, ioas, MIB(4), (void *)-PAGE, 2 * PAGE)));
	say("map-null-pages", "%s", answer(ioas_map(iommu, ioas, MIB(5), NULL, PAGE)));
	say("map-kernel-address", "%s", answer(ioas_map(iommu, ioas, MIB(6), (void *)(1ull << 63), PAGE)));
	say("map-read-only-for-writing", "%s", answer(ioas_map(iommu, ioas, MIB(7), ro, PAGE)));
	map.flags = MAP_FIXED_IOVA;
	map.iova = MIB(8);
	say("map-no-permission", "%s", answer(COMMAND(iommu, IOAS_MAP, &map)));
	map.flags = 8 | MAP_RW;
	say("map-unknown-flag", "%s", answer(COMMAND(iommu, IOAS_MAP, &map)));
	map.flags = MAP_RW | MAP_FIXED_IOVA;
	map.reserved = 1;
	say("map-reserved", "%s", answer(COMMAND(iommu, IOAS_MAP, &map)));

	say("unmap-nothing", "%s", answer(ioas_unmap(iommu, ioas, MIB(50), PAGE, NULL)));
	say("unmap-part", "%s", answer(ioas_unmap(iommu, ioas, MIB(1), PAGE, &n)));
	say("unmap-length-0", "%s", answer(ioas_unmap(iommu, ioas, MIB(1), 0, &n)));
	say("unmap-wraps", "%s", answer(ioas_unmap(iommu, ioas, -PAGE, 2 * PAGE, &n)));
	say("unmap-exact", "%s", answer(ioas_unmap(iommu, ioas, MIB(1), 2 * PAGE, &n)));
	say("unmapped", "%llu", (unsigned long long)n);
	say("unmap-again", "%s", answer(ioas_unmap(iommu, ioas, MIB(1), 2 * PAGE, &n)));
	say("unmap-two", "%s", answer(ioas_unmap(iommu, ioas, MIB(2), PAGE, &n)));
	say("unmapped-two", "%llu", (unsigned long long)n);
	say("unmap-ioas-999", "%s", answer(ioas_unmap(iommu, 999, MIB(2), PAGE, &n)));
	say("unmap-all", "%s", answer(ioas_unmap(iommu, ioas, 0, UINT64_MAX, &n)));
	say("unmap-all-of-nothing", "%s", answer(ioas_unmap(iommu, ioas, 0, UINT64_MAX, &n)));
	say("unmapped-all-of-nothing", "%llu", (unsigned long long)n);
	say("map-then-destroy", "%s", answer(ioas_map(iommu, ioas, MIB(1), m, PAGE)));
	say("destroy", "%s", answer(destroy(iommu, ioas)));
	munmap(m, 8 * PAGE);
	munmap(ro, PAGE);
}

static int allow(uint32_t ioas, const struct range *ranges, unsigned n)
{
	struct ioas_allow a = { .ioas_id = ioas, .num_iovas = n, .allowed_iovas = (uintptr_t)ranges };

	return COMMAND(iommu, IOAS_ALLOW_IOVAS, &a);
}

static void ranges(void)
{
	static const struct range good[] = { { MIB(1), MIB(2) - 1 }, { MIB(4), MIB(6) - 1 } };
	static const struct range crossing[] = { { MIB(1), MIB(3) - 1 }, { MIB(2), MIB(4) - 1 } };
	static const struct range backwards[] = { { MIB(2), MIB(1) } };
	uint32_t ioas = ioas_alloc(iommu);
	unsigned char *m = pages(2 * PAGE);
	struct ioas_ranges r = { .ioas_id = ioas };
	struct ioas_map map = { .flags = MAP_RW, .ioas_id = ioas, .user_va = (uintptr_t)m, .length = PAGE };

	say_ranges("fresh", iommu, ioas);
	say("no-room", "%s", answer(COMMAND(iommu, IOAS_IOVA_RANGES, &r)));
	say("no-room-n", "%u", r.num_iovas);
	r.reserved = 1;
	say("reserved", "%s", answer(COMMAND(iommu, IOAS_IOVA_RANGES, &r)));
	r.reserved = 0;
	r.num_iovas = 4;
	say("null-array", "%s", answer(COMMAND(iommu, IOAS_IOVA_RANGES, &r)));
	say("allow-crossing", "%s", answer(allow(ioas, crossing, 2)));
	say("allow-backwards", "%s", answer(allow(ioas, backwards, 1)));
	say("allow-null", "%s", answer(allow(ioas, NULL, 1)));
	say("allow", "%s", answer(allow(ioas, good, 2)));
	say_ranges("allowed-does-not-shrink", iommu, ioas);
	say("map-anywhere", "%s", answer(COMMAND(iommu, IOAS_MAP, &map)));
	say("lands-in-allowed", "%d", (map.iova >= MIB(1) && map.iova < MIB(2)) ||
				      (map.iova >= MIB(4) && map.iova < MIB(6)));
	say("map-fixed-outside", "%s", answer(ioas_map(iommu, ioas, MIB(10), m, PAGE)));
	say("allow-nothing", "%s", answer(allow(ioas, NULL, 0)));
	destroy(iommu, ioas);
	munmap(m, 2 * PAGE);
}

static void copying(void)
{
	uint32_t from = ioas_alloc(iommu), to = ioas_alloc(iommu);
	unsigned char *m = pages(4 * PAGE);
	struct ioas_copy c = { .flags = MAP_RW | MAP_FIXED_IOVA, .dst_ioas_id = to, .src_ioas_id = from, .length = PAGE,
			       .dst_iova = MIB(9), .src_iova = MIB(1) };
	uint64_t n;

	ioas_map(iommu, from, MIB(1), m, 2 * PAGE);
	ioas_map(iommu, from, MIB(1) + 2 * PAGE, m + 2 * PAGE, PAGE);
	say("copy", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	say("copy-again", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.dst_iova = MIB(10);
	c.length = 3 * PAGE;
	say("copy-over-two", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.length = 4 * PAGE;
	c.dst_iova = MIB(11);
	say("copy-beyond", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.src_iova = MIB(1) + 7;
	c.length = 9;
	say("copy-odd", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.length = 0;
	say("copy-length-0", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.length = UINT64_MAX;
	say("copy-wraps", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.length = PAGE;
	c.src_ioas_id = 999;
	say("copy-from-999", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.src_ioas_id = from;
	c.dst_ioas_id = 999;
	say("copy-to-999", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.dst_ioas_id = from;
	c.src_iova = MIB(1);
	c.dst_iova = MIB(20);
	say("copy-within", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.flags = MAP_FIXED_IOVA;
	c.dst_iova = MIB(21);
	say("copy-no-permission", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.flags = MAP_RW | 8;
	say("copy-unknown-flag", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	c.flags = MAP_RW;
	say("copy-anywhere", "%s", answer(COMMAND(iommu, IOAS_COPY, &c)));
	say("destroy-source", "%s", answer(destroy(iommu, from)));
	say("copies-stay", "%s", answer(ioas_unmap(iommu, to, MIB(9), PAGE, &n)));
	destroy(iommu, to);
	munmap(m, 4 * PAGE);
}

#define PART(f) (snprintf(prefix, sizeof(prefix), #f "/"), f())

int main(void)
{
	iommu = open_iommu();
	PART(sizes);
	PART(ids);
	PART(mapping);
	PART(ranges);
	PART(copying);
	return 0;
}
