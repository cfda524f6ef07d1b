/* GET_HW_INFO: types, and room that is shorter, longer, absent or not writable. The registers themselves are hardware's. */
#include "iommufd.h"

static int iommu;

static void one(const char *bdf)
{
	unsigned char room[64], zero[64] = {}, *bad = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct hw_info h = {};
	uint32_t dev, size;
	int fd = open_bound(bdf, iommu, &dev);

	h.dev_id = dev;
	h.data_type = 99;
	say("no-room", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	size = h.data_len;
	say("type-size", "%u %u", h.data_type, size);
	say("pasid-bits", "%u", h.out_max_pasid_log2);
	say("no-ats", "%d", !!(h.out_capabilities & 8));
	say("other-capabilities-but-dirty", "%#llx", (unsigned long long)h.out_capabilities & ~9ull);
	memset(room, 0xee, sizeof(room));
	h.data_len = sizeof(room);
	h.data_uptr = (uintptr_t)room;
	say("long-room", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	say("size-told", "%d", h.data_len == size);
	say("rest-zeroed", "%d", !memcmp(room + size, zero, sizeof(room) - size));
	memset(room, 0xee, sizeof(room));
	h.data_len = 4;
	say("short-room", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	say("short-size-told", "%d", h.data_len == size);
	say("not-beyond-room", "%d", room[4] == 0xee);
	h.data_len = 16;
	h.data_uptr = 0;
	say("null-room", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	h.data_len = 16;
	h.data_uptr = (uintptr_t)bad;
	say("read-only-room", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	h.data_uptr = (uintptr_t)room;
	for (uint32_t type = 0; type < 6; type++) {
		char name[32];

		h.flags = 1;
		h.data_type = type;
		h.data_len = 16;
		snprintf(name, sizeof(name), "ask-for-type-%u", type);
		say(name, "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	}
	h.flags = 2;
	say("unknown-flag", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	h.flags = 0;
	h.reserved[1] = 1;
	say("reserved", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	h.reserved[1] = 0;
	h.dev_id = 999;
	say("no-such-device", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	h.dev_id = ioas_alloc(iommu);
	say("an-ioas", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	close(fd);
	h.dev_id = dev;
	say("closed-device", "%s", answer(COMMAND(iommu, GET_HW_INFO, &h)));
	munmap(bad, PAGE);
}

int main(void)
{
	iommu = open_iommu();
	snprintf(prefix, sizeof(prefix), "NVME/");
	one(device("NVME"));
	snprintf(prefix, sizeof(prefix), "EDU/");
	one(device("EDU"));
	return 0;
}
