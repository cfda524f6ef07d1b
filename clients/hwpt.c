/* HWPT_ALLOC for devices: which flags their IOMMU takes, and what uses what. */
#include "iommufd.h"

static int iommu;
static uint32_t dev, ioas;

static void allocation(void)
{
	struct hwpt_alloc h = { .dev_id = dev, .pt_id = ioas };
	uint32_t made, id, data[4] = {};
	char name[32];

	for (uint32_t flags = 0; flags <= 16; flags++) {
		int ret = hwpt_alloc(iommu, dev, ioas, flags, &id);

		snprintf(name, sizeof(name), "flags-%u", flags);
		say(name, "%s", answer(ret));
		if (!ret)
			destroy(iommu, id);
	}
	say("no-such-device", "%s", answer(hwpt_alloc(iommu, 999, ioas, 0, &id)));
	say("device-is-an-ioas", "%s", answer(hwpt_alloc(iommu, ioas, ioas, 0, &id)));
	say("no-such-parent", "%s", answer(hwpt_alloc(iommu, dev, 999, 0, &id)));
	say("parent-is-a-device", "%s", answer(hwpt_alloc(iommu, dev, dev, 0, &id)));
	h.reserved = 1;
	say("reserved", "%s", answer(COMMAND(iommu, HWPT_ALLOC, &h)));
	h.reserved = 0;
	h.reserved2 = 1;
	say("reserved2", "%s", answer(COMMAND(iommu, HWPT_ALLOC, &h)));
	destroy(iommu, h.out_hwpt_id);
	h.reserved2 = 0;
	h.data_len = 8;
	say("data-length-without-type", "%s", answer(COMMAND(iommu, HWPT_ALLOC, &h)));
	h.data_type = 1;
	h.data_uptr = (uintptr_t)data;
	say("data-on-an-ioas", "%s", answer(COMMAND(iommu, HWPT_ALLOC, &h)));
	h.data_len = 0;
	say("type-without-data", "%s", answer(COMMAND(iommu, HWPT_ALLOC, &h)));
	say("made", "%s", answer(hwpt_alloc(iommu, dev, ioas, 0, &made)));
	say("on-a-page-table-without-data", "%s", answer(hwpt_alloc(iommu, dev, made, 0, &id)));
	h.pt_id = made;
	h.data_len = 16;
	say("on-one-that-is-no-parent", "%s", answer(COMMAND(iommu, HWPT_ALLOC, &h)));
	say("ioas-is-used", "%s", answer(destroy(iommu, ioas)));
	say("destroy", "%s", answer(destroy(iommu, made)));
}

int main(void)
{
	int device_fd;

	iommu = open_iommu();
	ioas = ioas_alloc(iommu);
	device_fd = open_bound(device("EDU"), iommu, &dev);
	allocation();
	close(device_fd);
	return 0;
}
