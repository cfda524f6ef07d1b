/*
 * MAP_DMA and UNMAP_DMA of type1 and type1v2 in every legal and illegal form. Each case runs under both types, with
 * lines prefixed v1- and v2-.
 */
#include "client.h"

static int c;
static char *mem;
#define MEM MIB(1)
#define BASE MIB(16)

/* One MAP with every field given. */
static const char *raw_map(uint32_t argsz, uint32_t flags, uint64_t vaddr, uint64_t iova, uint64_t size)
{
	struct {
		struct vfio_iommu_type1_dma_map m;
		char tail[64];
	} a = { .m = { .argsz = argsz, .flags = flags, .vaddr = vaddr, .iova = iova, .size = size } };

	return answer(ioctl(c, VFIO_IOMMU_MAP_DMA, &a));
}

/* One UNMAP with every field given; what it answered and what size it left. */
static const char *raw_unmap(uint32_t argsz, uint32_t flags, uint64_t iova, uint64_t size)
{
	static char text[64];
	struct {
		struct vfio_iommu_type1_dma_unmap u;
		char tail[64];
	} a = { .u = { .argsz = argsz, .flags = flags, .iova = iova, .size = size } };
	const char *r = answer(ioctl(c, VFIO_IOMMU_UNMAP_DMA, &a));

	snprintf(text, sizeof(text), "%s, size %#llx", r, (unsigned long long)a.u.size);
	return text;
}

#define SIZE sizeof(struct vfio_iommu_type1_dma_map)
#define USIZE sizeof(struct vfio_iommu_type1_dma_unmap)
#define AT(off) ((uintptr_t)mem + (off))

static unsigned available(void)
{
	static unsigned char buf[4096];
	struct vfio_iommu_type1_info *info = (void *)buf;
	struct vfio_info_cap_header *h;

	info->argsz = sizeof(buf);
	if (ioctl(c, VFIO_IOMMU_GET_INFO, info))
		return 0;
	for (unsigned at = info->cap_offset; at; at = h->next) {
		h = (void *)(buf + at);
		if (h->id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL)
			return ((struct vfio_iommu_type1_info_dma_avail *)h)->avail;
	}
	return 0;
}

static void clear(void)
{
	struct vfio_iommu_type1_dma_unmap u = { .argsz = sizeof(u), .flags = VFIO_DMA_UNMAP_FLAG_ALL };

	ioctl(c, VFIO_IOMMU_UNMAP_DMA, &u);
}

static void map_arguments(void)
{
	static const uint32_t sizes[] = { 0, 4, 8, 16, 31, 32, 33, 64, 0xffffffff };
	static const uint32_t flags[] = { 0, 1, 2, 3, 4, 5, 7, 8, 11, 0x80000003 };
	char name[64];

	for (unsigned i = 0; i < COUNT(sizes); i++) {
		snprintf(name, sizeof(name), "map-argsz-%u", sizes[i]);
		say(name, "%s", raw_map(sizes[i], 3, AT(0), BASE, PAGE));
		clear();
	}
	for (unsigned i = 0; i < COUNT(flags); i++) {
		snprintf(name, sizeof(name), "map-flags-%#x", flags[i]);
		say(name, "%s", raw_map(SIZE, flags[i], AT(0), BASE, PAGE));
		clear();
	}
	say("map-null", "%s", answer(ioctl(c, VFIO_IOMMU_MAP_DMA, NULL)));
	say("map-bad-pointer", "%s", answer(ioctl(c, VFIO_IOMMU_MAP_DMA, 0x1000)));
	say("unmap-null", "%s", answer(ioctl(c, VFIO_IOMMU_UNMAP_DMA, NULL)));
	say("map-flag-vaddr", "%s", raw_map(SIZE, VFIO_DMA_MAP_FLAG_VADDR, AT(0), BASE, PAGE));
	say("map-flag-vaddr-read", "%s", raw_map(SIZE, VFIO_DMA_MAP_FLAG_VADDR | READ, AT(0), BASE, PAGE));
}

static void map_alignment(void)
{
	say("map-size-0", "%s", raw_map(SIZE, 3, AT(0), BASE, 0));
	say("map-size-1", "%s", raw_map(SIZE, 3, AT(0), BASE, 1));
	say("map-size-512", "%s", raw_map(SIZE, 3, AT(0), BASE, 512));
	say("map-size-page-and-a-half", "%s", raw_map(SIZE, 3, AT(0), BASE, PAGE + 2048));
	say("map-iova-unaligned", "%s", raw_map(SIZE, 3, AT(0), BASE + 1, PAGE));
	say("map-iova-half-page", "%s", raw_map(SIZE, 3, AT(0), BASE + 2048, PAGE));
	say("map-vaddr-unaligned", "%s", raw_map(SIZE, 3, AT(1), BASE, PAGE));
	say("map-vaddr-half-page", "%s", raw_map(SIZE, 3, AT(2048), BASE, PAGE));
	say("map-all-unaligned-alike", "%s", raw_map(SIZE, 3, AT(512), BASE + 512, 512));
	say("map-size-top-bits", "%s", raw_map(SIZE, 3, AT(0), BASE, 1ull << 63));
	say("map-size-all-ones", "%s", raw_map(SIZE, 3, AT(0), BASE, ~0ull));
	say("map-size-all-pages", "%s", raw_map(SIZE, 3, AT(0), BASE, ~0xfffull));
}

static void map_edges(void)
{
	say("map-iova-0", "%s", raw_map(SIZE, 3, AT(0), 0, PAGE));
	say("unmap-iova-0", "%s", raw_unmap(USIZE, 0, 0, PAGE));
	say("map-iova-wraps", "%s", raw_map(SIZE, 3, AT(0), ~0xfffull, 2 * PAGE));
	say("map-iova-wraps-exactly", "%s", raw_map(SIZE, 3, AT(0), ~0xfffull, PAGE));
	say("unmap-last-page", "%s", raw_unmap(USIZE, 0, ~0xfffull, PAGE));
	say("map-vaddr-wraps", "%s", raw_map(SIZE, 3, ~0xfffull, BASE, 2 * PAGE));
	say("map-vaddr-last-page", "%s", raw_map(SIZE, 3, ~0xfffull, BASE, PAGE));
	say("map-vaddr-kernel", "%s", raw_map(SIZE, 3, 0xffff888000000000, BASE, PAGE));
	say("map-vaddr-not-canonical", "%s", raw_map(SIZE, 3, 0x0000900000000000, BASE, PAGE));
	say("map-vaddr-null", "%s", raw_map(SIZE, 3, 0, BASE, PAGE));
	say("map-msi-window-first", "%s", raw_map(SIZE, 3, AT(0), 0xfee00000, PAGE));
	say("map-msi-window-last", "%s", raw_map(SIZE, 3, AT(0), 0xfeeff000, PAGE));
	say("map-into-msi-window", "%s", raw_map(SIZE, 3, AT(0), 0xfedff000, 2 * PAGE));
	say("map-out-of-msi-window", "%s", raw_map(SIZE, 3, AT(0), 0xfeeff000, 2 * PAGE));
	say("map-below-msi-window", "%s", raw_map(SIZE, 3, AT(0), 0xfedff000, PAGE));
	say("map-above-msi-window", "%s", raw_map(SIZE, 3, AT(0), 0xfef00000, PAGE));
	clear();
	say("map-last-page-of-48-bits", "%s", raw_map(SIZE, 3, AT(0), (1ull << 48) - PAGE, PAGE));
	clear();
	say("map-across-48-bits", "%s", raw_map(SIZE, 3, AT(0), (1ull << 48) - PAGE, 2 * PAGE));
	clear();
	say("map-beyond-48-bits", "%s", raw_map(SIZE, 3, AT(0), 1ull << 48, PAGE));
	clear();
	say("map-beyond-57-bits", "%s", raw_map(SIZE, 3, AT(0), 1ull << 57, PAGE));
	clear();
	say("map-hypertransport-window", "%s", raw_map(SIZE, 3, AT(0), 0xfd00000000, PAGE));
	clear();
	say("available-after-refusals", "%u", available());
}

static void map_overlap(void)
{
	say("map-first", "%s", raw_map(SIZE, 3, AT(0), BASE, 4 * PAGE));
	say("available-after-one", "%u", available());
	say("map-same-again", "%s", raw_map(SIZE, 3, AT(0), BASE, 4 * PAGE));
	say("map-inside", "%s", raw_map(SIZE, 3, AT(0), BASE + PAGE, PAGE));
	say("map-over-head", "%s", raw_map(SIZE, 3, AT(0), BASE - PAGE, 2 * PAGE));
	say("map-over-tail", "%s", raw_map(SIZE, 3, AT(0), BASE + 3 * PAGE, 2 * PAGE));
	say("map-around", "%s", raw_map(SIZE, 3, AT(0), BASE - PAGE, 6 * PAGE));
	say("map-overlap-and-unaligned", "%s", raw_map(SIZE, 3, AT(1), BASE, PAGE));
	say("map-overlap-and-bad-vaddr", "%s", raw_map(SIZE, 3, 0, BASE, PAGE));
	say("map-adjacent-below", "%s", raw_map(SIZE, 3, AT(0), BASE - PAGE, PAGE));
	say("map-adjacent-above", "%s", raw_map(SIZE, 3, AT(0), BASE + 4 * PAGE, PAGE));
	say("map-same-memory-elsewhere", "%s", raw_map(SIZE, 3, AT(0), BASE + MIB(1), 4 * PAGE));
	say("available-after-four", "%u", available());
	clear();
	say("available-after-unmap-all", "%u", available());
}

/* Maps `size` bytes at `p` for reading and for writing, and gives them back. */
static void both_ways(const char *what, void *p, uint64_t size)
{
	char name[64];

	if (p == MAP_FAILED) {
		static const char *const ways[] = { "to-read", "to-write", "both" };

		for (unsigned i = 0; i < COUNT(ways); i++) {
			snprintf(name, sizeof(name), "map-%s-%s", what, ways[i]);
			say(name, "absent");
		}
		return;
	}
	snprintf(name, sizeof(name), "map-%s-to-read", what);
	say(name, "%s", raw_map(SIZE, READ, (uintptr_t)p, BASE, size));
	clear();
	snprintf(name, sizeof(name), "map-%s-to-write", what);
	say(name, "%s", raw_map(SIZE, WRITE, (uintptr_t)p, BASE, size));
	clear();
	snprintf(name, sizeof(name), "map-%s-both", what);
	say(name, "%s", raw_map(SIZE, READ | WRITE, (uintptr_t)p, BASE, size));
	clear();
}

static void *anon(int prot, int flags, uint64_t size)
{
	return mmap(NULL, size, prot, MAP_ANONYMOUS | flags, -1, 0);
}

static void kinds_of_memory(void)
{
	char on_stack[3 * PAGE], *p, path[] = "/tmp/client-XXXXXX";
	static char in_bss[3 * PAGE];
	static const char in_rodata[3 * PAGE] = { 1 };
	int fd;

	both_ways("untouched-anonymous", anon(3, MAP_PRIVATE, 4 * PAGE), 4 * PAGE);
	both_ways("read-only-anonymous", anon(PROT_READ, MAP_PRIVATE, 4 * PAGE), 4 * PAGE);
	both_ways("write-only-anonymous", anon(PROT_WRITE, MAP_PRIVATE, 4 * PAGE), 4 * PAGE);
	both_ways("prot-none", anon(PROT_NONE, MAP_PRIVATE, 4 * PAGE), 4 * PAGE);
	both_ways("shared-anonymous", anon(3, MAP_SHARED, 4 * PAGE), 4 * PAGE);
	both_ways("read-only-shared-anonymous", anon(PROT_READ, MAP_SHARED, 4 * PAGE), 4 * PAGE);
	both_ways("populated-anonymous", anon(3, MAP_PRIVATE | MAP_POPULATE, 4 * PAGE), 4 * PAGE);
	p = anon(3, MAP_PRIVATE | MAP_HUGETLB, MIB(2));
	both_ways("hugetlb", p, MIB(2));
	both_ways("page-of-hugetlb", p == MAP_FAILED ? p : p + PAGE, PAGE);
	if (p != MAP_FAILED)
		munmap(p, MIB(2));
	both_ways("stack", (void *)(((uintptr_t)on_stack + PAGE - 1) & -PAGE), PAGE);
	both_ways("bss", (void *)(((uintptr_t)in_bss + PAGE - 1) & -PAGE), PAGE);
	both_ways("rodata", (void *)(((uintptr_t)in_rodata + PAGE - 1) & -PAGE), PAGE);

	p = anon(3, MAP_PRIVATE, 4 * PAGE);
	munmap(p, 4 * PAGE);
	both_ways("hole", p, 4 * PAGE);
	p = anon(3, MAP_PRIVATE, 4 * PAGE);
	munmap(p + 2 * PAGE, PAGE);
	both_ways("hole-within", p, 4 * PAGE);
	p = anon(3, MAP_PRIVATE, 4 * PAGE);
	mprotect(p + 2 * PAGE, PAGE, PROT_READ);
	both_ways("read-only-within", p, 4 * PAGE);
	p = anon(3, MAP_PRIVATE, 4 * PAGE);
	mprotect(p + 2 * PAGE, PAGE, PROT_NONE);
	both_ways("prot-none-within", p, 4 * PAGE);
	say("available-after-failures", "%u", available());

	fd = memfd_create("client", 0);
	if (fd < 0 || ftruncate(fd, 4 * PAGE))
		die("memfd_create");
	both_ways("memfd-shared", mmap(NULL, 4 * PAGE, 3, MAP_SHARED, fd, 0), 4 * PAGE);
	both_ways("memfd-shared-read-only", mmap(NULL, 4 * PAGE, 1, MAP_SHARED, fd, 0), 4 * PAGE);
	both_ways("memfd-private", mmap(NULL, 4 * PAGE, 3, MAP_PRIVATE, fd, 0), 4 * PAGE);
	both_ways("memfd-private-read-only", mmap(NULL, 4 * PAGE, 1, MAP_PRIVATE, fd, 0), 4 * PAGE);
	both_ways("memfd-beyond-end", mmap(NULL, 8 * PAGE, 3, MAP_SHARED, fd, 0), 8 * PAGE);
	close(fd);

	fd = mkstemp(path);
	if (fd < 0 || ftruncate(fd, 4 * PAGE))
		die("mkstemp");
	unlink(path);
	both_ways("file-private", mmap(NULL, 4 * PAGE, 3, MAP_PRIVATE, fd, 0), 4 * PAGE);
	both_ways("file-private-read-only", mmap(NULL, 4 * PAGE, 1, MAP_PRIVATE, fd, 0), 4 * PAGE);
	close(fd);
}

static void unmap_arguments(void)
{
	static const uint32_t sizes[] = { 0, 8, 16, 23, 24, 25, 64 };
	static const uint32_t flags[] = { 1, 2, 3, 4, 5, 8, 0x80000000 };
	char name[64];

	for (unsigned i = 0; i < COUNT(sizes); i++) {
		raw_map(SIZE, 3, AT(0), BASE, PAGE);
		snprintf(name, sizeof(name), "unmap-argsz-%u", sizes[i]);
		say(name, "%s", raw_unmap(sizes[i], 0, BASE, PAGE));
		clear();
	}
	for (unsigned i = 0; i < COUNT(flags); i++) {
		raw_map(SIZE, 3, AT(0), BASE, PAGE);
		snprintf(name, sizeof(name), "unmap-flags-%#x", flags[i]);
		say(name, "%s", raw_unmap(USIZE, flags[i], BASE, PAGE));
		clear();
	}
	raw_map(SIZE, 3, AT(0), BASE, PAGE);
	say("unmap-dirty-bitmap-with-room", "%s", raw_unmap(USIZE + 24, 1, BASE, PAGE));
	clear();
	say("unmap-all-of-nothing", "%s", raw_unmap(USIZE, 2, 0, 0));
	raw_map(SIZE, 3, AT(0), BASE, PAGE);
	say("unmap-all-with-iova", "%s", raw_unmap(USIZE, 2, BASE, 0));
	say("unmap-all-with-size", "%s", raw_unmap(USIZE, 2, 0, PAGE));
	say("unmap-vaddr-of-nothing", "%s", raw_unmap(USIZE, 4, BASE + MIB(1), PAGE));
	raw_map(SIZE, 3, AT(0), BASE + MIB(1), 2 * PAGE);
	say("unmap-all-of-two", "%s", raw_unmap(USIZE, 2, 0, 0));
	say("available-after-all", "%u", available());
}

/* Two mappings of four pages with a hole of four between them, then one UNMAP. */
static void unmap_of_two(const char *name, int64_t from, uint64_t size)
{
	char after[96];
	unsigned left;

	raw_map(SIZE, 3, AT(0), BASE, 4 * PAGE);
	raw_map(SIZE, 3, AT(8 * PAGE), BASE + 8 * PAGE, 4 * PAGE);
	say(name, "%s", raw_unmap(USIZE, 0, BASE + from, size));
	snprintf(after, sizeof(after), "%s-leaves", name);
	left = 65535 - available();
	say(after, "%u maps, head %s", left, raw_map(SIZE, 3, AT(0), BASE, PAGE));
	clear();
}

static void unmap_ranges(void)
{
	unmap_of_two("unmap-exact", 0, 4 * PAGE);
	unmap_of_two("unmap-superset", -(int64_t)PAGE, 6 * PAGE);
	unmap_of_two("unmap-both-and-hole", 0, 12 * PAGE);
	unmap_of_two("unmap-everything-around", -(int64_t)BASE, MIB(64));
	unmap_of_two("unmap-first-page", 0, PAGE);
	unmap_of_two("unmap-middle-page", PAGE, PAGE);
	unmap_of_two("unmap-last-page-of-map", 3 * PAGE, PAGE);
	unmap_of_two("unmap-straddling-head", -(int64_t)PAGE, 3 * PAGE);
	unmap_of_two("unmap-straddling-tail", 2 * PAGE, 4 * PAGE);
	unmap_of_two("unmap-tail-of-one-and-all-of-next", 2 * PAGE, 10 * PAGE);
	unmap_of_two("unmap-all-of-one-and-head-of-next", 0, 10 * PAGE);
	unmap_of_two("unmap-middle-to-middle", 2 * PAGE, 8 * PAGE);
	unmap_of_two("unmap-hole", 4 * PAGE, 4 * PAGE);
	unmap_of_two("unmap-in-hole", 5 * PAGE, PAGE);
	unmap_of_two("unmap-beyond", 64 * PAGE, PAGE);
	unmap_of_two("unmap-size-0", 0, 0);
	unmap_of_two("unmap-unaligned-iova", 1, PAGE);
	unmap_of_two("unmap-unaligned-size", 0, PAGE + 1);
	unmap_of_two("unmap-one-byte", 0, 1);
	unmap_of_two("unmap-wraps", 0, ~0xfffull);
	unmap_of_two("unmap-from-0-all-ones", -(int64_t)BASE, ~0ull);
	unmap_of_two("unmap-from-0-all-pages", -(int64_t)BASE, ~0xfffull);
	unmap_of_two("unmap-from-0-half", -(int64_t)BASE, 1ull << 63);
	unmap_of_two("unmap-last-page-of-space", -(int64_t)BASE - (int64_t)PAGE, PAGE);
	unmap_of_two("unmap-wraps-from-last-page", -(int64_t)BASE - (int64_t)PAGE, 2 * PAGE);
}

/* Mappings that touch, unmapped across their border. */
static void unmap_of_neighbours(void)
{
	raw_map(SIZE, 3, AT(0), BASE, 2 * PAGE);
	raw_map(SIZE, 3, AT(2 * PAGE), BASE + 2 * PAGE, 2 * PAGE);
	say("unmap-across-border", "%s", raw_unmap(USIZE, 0, BASE + PAGE, 2 * PAGE));
	say("unmap-two-neighbours", "%s", raw_unmap(USIZE, 0, BASE, 4 * PAGE));
	clear();
	raw_map(SIZE, 3, AT(0), BASE, MEM);
	say("unmap-large", "%s", raw_unmap(USIZE, 0, BASE, MEM));
	raw_map(SIZE, 3, AT(0), MIB(1), MEM);
	say("unmap-half-of-large", "%s", raw_unmap(USIZE, 0, MIB(1), MEM / 2));
	say("unmap-other-half-of-large", "%s", raw_unmap(USIZE, 0, MIB(1) + MEM / 2, MEM / 2));
	clear();
}

/* The memory goes away under a mapping; the mapping stays. */
static void munmap_under_a_mapping(void)
{
	char *p = anon(3, MAP_PRIVATE, 4 * PAGE);

	memset(p, 1, 4 * PAGE);
	say("map-then-munmap", "%s", raw_map(SIZE, 3, (uintptr_t)p, BASE, 4 * PAGE));
	munmap(p, 4 * PAGE);
	say("map-gone-memory-elsewhere", "%s", raw_map(SIZE, 3, (uintptr_t)p, BASE + MIB(1), 4 * PAGE));
	say("map-again-over-it", "%s", raw_map(SIZE, 3, AT(0), BASE, PAGE));
	say("unmap-after-munmap", "%s", raw_unmap(USIZE, 0, BASE, 4 * PAGE));
	p = anon(3, MAP_PRIVATE, 4 * PAGE);
	say("map-then-mprotect", "%s", raw_map(SIZE, 3, (uintptr_t)p, BASE, 4 * PAGE));
	mprotect(p, 4 * PAGE, PROT_NONE);
	say("unmap-after-mprotect", "%s", raw_unmap(USIZE, 0, BASE, 4 * PAGE));
	munmap(p, 4 * PAGE);
}

static void *at(void *p)
{
	return p;
}

/* VFIO_DMA_UNMAP_FLAG_VADDR was taken out of the kernel's offer for most cases: what is left of it. */
static void vaddr_updates(void)
{
	raw_map(SIZE, 3, AT(0), BASE, PAGE);
	say("unmap-vaddr", "%s", raw_unmap(USIZE, VFIO_DMA_UNMAP_FLAG_VADDR, BASE, PAGE));
	say("map-vaddr-back", "%s", raw_map(SIZE, VFIO_DMA_MAP_FLAG_VADDR, (uintptr_t)at(mem), BASE, PAGE));
	say("map-vaddr-back-twice", "%s", raw_map(SIZE, VFIO_DMA_MAP_FLAG_VADDR, (uintptr_t)at(mem), BASE, PAGE));
	clear();
}

static void dirty_pages(void)
{
	struct {
		struct vfio_iommu_type1_dirty_bitmap d;
		struct vfio_iommu_type1_dirty_bitmap_get g;
	} a = { .d = { .argsz = sizeof(a.d) } };
	static const uint32_t flags[] = { 0, 1, 1, 2, 2, 3, 8, 6 };
	uint64_t bits = 0;
	char name[64];

	for (unsigned i = 0; i < COUNT(flags); i++) {
		a.d.flags = flags[i];
		snprintf(name, sizeof(name), "dirty-%u-flags-%#x", i, flags[i]);
		say(name, "%s", answer(ioctl(c, VFIO_IOMMU_DIRTY_PAGES, &a)));
	}
	raw_map(SIZE, 3, AT(0), BASE, 4 * PAGE);
	a.d.argsz = sizeof(a);
	a.d.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
	a.g = (struct vfio_iommu_type1_dirty_bitmap_get){
		.iova = BASE, .size = 4 * PAGE,
		.bitmap = { .pgsize = PAGE, .size = 8, .data = (void *)&bits },
	};
	say("dirty-bitmap-not-started", "%s", answer(ioctl(c, VFIO_IOMMU_DIRTY_PAGES, &a)));
	clear();
}

int main(void)
{
	for (int type = 1; type <= 3; type += 2) {
		struct door d = open_door(device("NVME"), type);

		c = d.container;
		mem = pages(MEM);
		prefix[0] = 0;
		snprintf(prefix, sizeof(prefix), type == 1 ? "v1-" : "v2-");
		map_arguments();
		map_alignment();
		map_edges();
		map_overlap();
		kinds_of_memory();
		unmap_arguments();
		unmap_ranges();
		unmap_of_neighbours();
		munmap_under_a_mapping();
		vaddr_updates();
		dirty_pages();
		close_door(&d);
	}
	return 0;
}
