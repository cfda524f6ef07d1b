/*
 * Dirty pages: VFIO_IOMMU_DIRTY_PAGES and the bitmap of UNMAP_DMA. No driver pins pages by itself here, so type1 can only say
 * of every mapped page that it may be dirty; what else it checks, and in which order, is the matter of this program.
 */
#include "client.h"

#define BASE MIB(16)
#define SIZE (8 * PAGE)

static int c;
static char *mem;

/* One bit a page; what lay there before is seen to stay. */
static uint64_t bits[2];

static struct {
	struct vfio_iommu_type1_dirty_bitmap d;
	struct vfio_iommu_type1_dirty_bitmap_get g;
} query;

static void ask(uint64_t iova, uint64_t size)
{
	query.d.argsz = sizeof(query);
	query.d.flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
	query.g = (struct vfio_iommu_type1_dirty_bitmap_get){
		.iova = iova, .size = size,
		.bitmap = { .pgsize = PAGE, .size = sizeof(bits), .data = (void *)bits },
	};
	memset(bits, 0, sizeof(bits));
}

static void told(const char *name)
{
	const char *result = answer(ioctl(c, VFIO_IOMMU_DIRTY_PAGES, &query));

	say(name, "%s, bits %#llx %#llx", result, (unsigned long long)bits[0], (unsigned long long)bits[1]);
}

static void command(const char *name, uint32_t flags)
{
	struct vfio_iommu_type1_dirty_bitmap d = { .argsz = sizeof(d), .flags = flags };

	say(name, "%s", answer(ioctl(c, VFIO_IOMMU_DIRTY_PAGES, &d)));
}

/* Two mappings of two pages with two pages between them, and one more of 70 pages far above. */
static void map_all(void)
{
	if (map(c, BASE, mem, 2 * PAGE, READ | WRITE) || map(c, BASE + 4 * PAGE, mem + 4 * PAGE, 2 * PAGE, READ) ||
	    map(c, BASE + MIB(1), mem, 70 * PAGE, READ | WRITE))
		die("MAP_DMA");
}

static void arguments(void)
{
	ask(BASE, SIZE);
	query.d.argsz = 7;
	told("argsz-7");
	ask(BASE, SIZE);
	query.d.argsz = sizeof(query.d);
	told("argsz-without-range");
	ask(BASE, SIZE);
	query.d.argsz = sizeof(query) - 1;
	told("argsz-short-by-one");
	ask(BASE, 0);
	told("size-0");
	ask(BASE, SIZE + 1);
	told("size-unaligned");
	ask(BASE + 8, SIZE);
	told("iova-unaligned");
	ask(BASE, -(uint64_t)PAGE);
	told("range-wraps");
	ask(BASE, SIZE);
	query.g.bitmap.pgsize = 2 * PAGE;
	told("page-size-8192");
	ask(BASE, SIZE);
	query.g.bitmap.pgsize = 0;
	told("page-size-0");
	ask(BASE, SIZE);
	query.g.bitmap.size = 0;
	told("bitmap-of-0");
	ask(BASE, SIZE);
	query.g.bitmap.size = 7;
	told("bitmap-of-7");
	ask(BASE + MIB(1), 70 * PAGE);
	query.g.bitmap.size = 8;
	told("bitmap-of-8-for-70-pages");
	ask(BASE, SIZE);
	query.g.bitmap.data = NULL;
	told("bitmap-at-null");
	ask(BASE, SIZE);
	query.g.bitmap.data = (void *)(1ull << 63);
	told("bitmap-in-the-kernel");
}

static void ranges(void)
{
	ask(BASE, SIZE);
	told("two-maps-and-holes");
	ask(BASE, SIZE);
	told("the-same-again");
	ask(BASE, 2 * PAGE);
	told("first-map");
	ask(BASE + 4 * PAGE, 2 * PAGE);
	told("second-map");
	ask(BASE - 3 * PAGE, 5 * PAGE);
	told("begins-before-the-map");
	ask(BASE + 2 * PAGE, 2 * PAGE);
	told("a-hole");
	ask(BASE, PAGE);
	told("head-of-a-map");
	ask(BASE + PAGE, PAGE);
	told("tail-of-a-map");
	ask(BASE + MIB(1), 70 * PAGE);
	told("seventy-pages");
	ask(BASE + MIB(1) - PAGE, 71 * PAGE);
	told("seventy-pages-from-one-before");
	ask(BASE, SIZE);
	bits[0] = ~0ull << 60;
	bits[1] = 5;
	told("bits-that-were-set");
}

static void unmap_with_bitmap(const char *name, uint64_t iova, uint64_t size, uint64_t pgsize, uint64_t room)
{
	struct {
		struct vfio_iommu_type1_dma_unmap u;
		struct vfio_bitmap b;
	} a = {
		.u = { .argsz = sizeof(a), .flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, .iova = iova, .size = size },
		.b = { .pgsize = pgsize, .size = room, .data = (void *)bits },
	};
	const char *result;

	memset(bits, 0, sizeof(bits));
	result = answer(ioctl(c, VFIO_IOMMU_UNMAP_DMA, &a));
	say(name, "%s, size %#llx, bits %#llx %#llx", result, (unsigned long long)a.u.size, (unsigned long long)bits[0],
	    (unsigned long long)bits[1]);
}

int main(void)
{
	for (int type = 1; type <= 3; type += 2) {
		struct door d = open_door(device("NVME"), type);

		c = d.container;
		mem = pages(MIB(1));
		snprintf(prefix, sizeof(prefix), type == 1 ? "v1-" : "v2-");
		map_all();
		unmap_with_bitmap("unmap-when-off", BASE, 2 * PAGE, PAGE, 8);
		command("start", VFIO_IOMMU_DIRTY_PAGES_FLAG_START);
		arguments();
		ranges();
		unmap_with_bitmap("unmap-page-size-8192", BASE, 2 * PAGE, 2 * PAGE, 8);
		unmap_with_bitmap("unmap-bitmap-of-0", BASE, 2 * PAGE, PAGE, 0);
		unmap_with_bitmap("unmap-head", BASE, PAGE, PAGE, 8);
		unmap_with_bitmap("unmap-first-map", BASE, 2 * PAGE, PAGE, 8);
		unmap_with_bitmap("unmap-a-hole", BASE, 2 * PAGE, PAGE, 8);
		unmap_with_bitmap("unmap-hole-and-second-map", BASE, SIZE, PAGE, 8);
		unmap_with_bitmap("unmap-seventy-pages", BASE + MIB(1), 70 * PAGE, PAGE, 16);
		command("stop", VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
		ask(BASE, SIZE);
		told("after-stop");
		close_door(&d);
	}
	return 0;
}
