/*
 * The limit on mappings of a container (vfio_iommu_type1.dma_entry_limit), here 16: how it is shown, what exceeds it,
 * what gives entries back.
 */
#include "client.h"

static unsigned available(int c)
{
	static unsigned char buf[4096];
	struct vfio_iommu_type1_info *info = (void *)buf;
	struct vfio_info_cap_header *h;

	info->argsz = sizeof(buf);
	if (ioctl(c, VFIO_IOMMU_GET_INFO, info))
		die("GET_INFO");
	for (unsigned at = info->cap_offset; at; at = h->next) {
		h = (void *)(buf + at);
		if (h->id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL)
			return ((struct vfio_iommu_type1_info_dma_avail *)h)->avail;
	}
	return 0;
}

int main(void)
{
	char name[32], *m = pages(32 * PAGE);

	for (int type = 1; type <= 3; type += 2) {
		struct door d = open_door(device("NVME"), type);
		struct vfio_iommu_type1_dma_unmap all = { .argsz = sizeof(all), .flags = VFIO_DMA_UNMAP_FLAG_ALL };

		snprintf(prefix, sizeof(prefix), type == 1 ? "v1-" : "v2-");
		say("available-at-first", "%u", available(d.container));
		for (unsigned i = 0; i < 18; i++) {
			snprintf(name, sizeof(name), "map-%u", i);
			say(name, "%s", answer(map(d.container, MIB(1) + 2 * i * PAGE, m + i * PAGE, PAGE, READ | WRITE)));
		}
		say("available-when-full", "%u", available(d.container));
		say("overlap-when-full", "%s", answer(map(d.container, MIB(1), m, PAGE, READ)));
		say("bad-memory-when-full", "%s", answer(map(d.container, MIB(64), NULL, PAGE, READ)));
		say("bad-size-when-full", "%s", answer(map(d.container, MIB(64), m, 1, READ)));
		say("unmap-one", "%s", answer(unmap(d.container, MIB(1), PAGE, NULL)));
		say("available-after-one", "%u", available(d.container));
		say("failing-map", "%s", answer(map(d.container, MIB(64), NULL, PAGE, READ)));
		say("available-after-failing", "%u", available(d.container));
		say("map-in-its-place", "%s", answer(map(d.container, MIB(64), m, PAGE, READ)));
		say("map-one-too-many", "%s", answer(map(d.container, MIB(65), m, PAGE, READ)));
		say("unmap-all", "%s", answer(ioctl(d.container, VFIO_IOMMU_UNMAP_DMA, &all)));
		say("unmap-all-size", "%#llx", (unsigned long long)all.size);
		say("available-at-last", "%u", available(d.container));
		close_door(&d);
	}
	return 0;
}
