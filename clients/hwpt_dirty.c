/* Dirty tracking of page tables: HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP, with a device that writes. */
#include "edu.h"
#include "iommufd.h"

static int iommu;
static uint32_t dev, ioas;

static int set_dirty(uint32_t hwpt, uint32_t flags)
{
	struct set_dirty s = { .flags = flags, .hwpt_id = hwpt };

	return COMMAND(iommu, SET_DIRTY_TRACKING, &s);
}

static int get_dirty(uint32_t hwpt, uint32_t flags, uint64_t iova, uint64_t length, uint64_t page, void *data)
{
	struct get_dirty g = { .hwpt_id = hwpt, .flags = flags, .iova = iova, .length = length, .page_size = page,
			       .data = (uintptr_t)data };

	return COMMAND(iommu, GET_DIRTY_BITMAP, &g);
}

static void dirty(struct door *door)
{
	unsigned char *m = pages(8 * PAGE);
	uint64_t bits = 0;
	uint32_t plain, tracked, pt;

	ioas_map(iommu, ioas, MIB(1), m, 8 * PAGE);
	hwpt_alloc(iommu, dev, ioas, 0, &plain);
	say("set-on-plain", "%s", answer(set_dirty(plain, 1)));
	say("get-on-plain", "%s", answer(get_dirty(plain, 0, MIB(1), 8 * PAGE, PAGE, &bits)));
	destroy(iommu, plain);
	say("set-on-ioas", "%s", answer(set_dirty(ioas, 1)));
	say("alloc-tracked", "%s", answer(hwpt_alloc(iommu, dev, ioas, 2, &tracked)));
	pt = tracked;
	say("attach", "%s", answer(attach_to(door->device, &pt)));
	say("get-while-off", "%s", answer(get_dirty(tracked, 0, MIB(1), 8 * PAGE, PAGE, &bits)));
	say("set-unknown-flag", "%s", answer(set_dirty(tracked, 2)));
	say("set", "%s", answer(set_dirty(tracked, 1)));
	say("set-again", "%s", answer(set_dirty(tracked, 1)));
	say("get-unknown-flag", "%s", answer(get_dirty(tracked, 2, MIB(1), 8 * PAGE, PAGE, &bits)));
	say("get-page-size-0", "%s", answer(get_dirty(tracked, 0, MIB(1), 8 * PAGE, 0, &bits)));
	say("get-page-size-3000", "%s", answer(get_dirty(tracked, 0, MIB(1), 8 * PAGE, 3000, &bits)));
	say("get-page-size-2048", "%s", answer(get_dirty(tracked, 0, MIB(1), 8 * PAGE, 2048, &bits)));
	say("get-length-0", "%s", answer(get_dirty(tracked, 0, MIB(1), 0, PAGE, &bits)));
	say("get-unaligned", "%s", answer(get_dirty(tracked, 0, MIB(1) + 1, PAGE, PAGE, &bits)));
	say("get-wraps", "%s", answer(get_dirty(tracked, 0, -PAGE, 2 * PAGE, PAGE, &bits)));
	say("get-null", "%s", answer(get_dirty(tracked, 0, MIB(1), 8 * PAGE, PAGE, NULL)));
	say("get-no-such-id", "%s", answer(get_dirty(999, 0, MIB(1), 8 * PAGE, PAGE, &bits)));
	bits = 0;
	say("get-hole", "%s", answer(get_dirty(tracked, 0, MIB(9), 8 * PAGE, PAGE, &bits)));
	edu_open(door);
	say("device-writes", "%d", edu_to_memory(MIB(1) + 2 * PAGE, 0, 64));
	say("device-writes-too", "%d", edu_to_memory(MIB(1) + 5 * PAGE, 0, 64));
	bits = 0;
	say("get-no-clear", "%s", answer(get_dirty(tracked, 1, MIB(1), 8 * PAGE, PAGE, &bits)));
	say("dirty-no-clear", "%#llx", (unsigned long long)bits);
	bits = 1ull << 60;
	say("get", "%s", answer(get_dirty(tracked, 0, MIB(1), 8 * PAGE, PAGE, &bits)));
	say("dirty-beside-what-was-there", "%#llx", (unsigned long long)bits);
	bits = 0;
	say("get-after-clear", "%s", answer(get_dirty(tracked, 0, MIB(1), 8 * PAGE, PAGE, &bits)));
	say("dirty-after-clear", "%#llx", (unsigned long long)bits);
	say("off", "%s", answer(set_dirty(tracked, 0)));
	say("destroy-attached", "%s", answer(destroy(iommu, tracked)));
	detach_from(door->device);
	say("destroy", "%s", answer(destroy(iommu, tracked)));
}

int main(void)
{
	struct door door = {};

	iommu = open_iommu();
	ioas = ioas_alloc(iommu);
	door.device = open_bound(device("EDU"), iommu, &dev);
	dirty(&door);
	return 0;
}
