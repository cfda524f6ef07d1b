/*
 * /dev/iommu in place of a container: which address space the VFIO calls use, the calls themselves, a group in it, and
 * DMA of its device.
 */
#include "edu.h"
#include "iommufd.h"

static int iommu;

static const char *vfio_ioas(uint16_t op, uint32_t id)
{
	static char text[2][64];
	static unsigned next;
	struct vfio_ioas v = { .ioas_id = id, .op = op };
	const char *ret = answer(COMMAND(iommu, VFIO_IOAS, &v));
	char *t = text[next++ % 2];

	snprintf(t, sizeof(text[0]), "%s %u", ret, v.ioas_id);
	return t;
}

#define GET 0
#define SET 1
#define CLEAR 2

static void which(void)
{
	struct vfio_ioas v = { .op = GET, .reserved = 1 };
	uint32_t ioas = ioas_alloc(iommu);

	say("get-none", "%s", vfio_ioas(GET, 0));
	say("set-999", "%s", vfio_ioas(SET, 999));
	say("set", "%s", vfio_ioas(SET, ioas));
	say("get", "%s", vfio_ioas(GET, 0));
	say("clear", "%s", vfio_ioas(CLEAR, 0));
	say("clear-again", "%s", vfio_ioas(CLEAR, 0));
	say("get-cleared", "%s", vfio_ioas(GET, 0));
	say("op-3", "%s", vfio_ioas(3, 0));
	say("reserved", "%s", answer(COMMAND(iommu, VFIO_IOAS, &v)));
	vfio_ioas(SET, ioas);
	say("destroy-it", "%s", answer(destroy(iommu, ioas)));
	say("get-destroyed", "%s", vfio_ioas(GET, 0));
}

static void calls(void)
{
	unsigned char *m = pages(4 * PAGE);
	char name[32];

	say("api-version", "%s", answer(ioctl(iommu, VFIO_GET_API_VERSION)));
	for (unsigned i = 0; i <= 11; i++) {
		if (i == 8) /* depends on how the kernel was built */
			continue;
		snprintf(name, sizeof(name), "extension-%u", i);
		say(name, "%s", answer(ioctl(iommu, VFIO_CHECK_EXTENSION, (long)i)));
	}
	say("map-before-set-iommu", "%s", answer(map(iommu, MIB(1), m, PAGE, READ | WRITE)));
	munmap(m, 4 * PAGE);
}

static void get_info(const char *name)
{
	struct { struct vfio_iommu_type1_info info; uint64_t more[64]; } i = { .info = { .argsz = sizeof(i) } };
	int ret = ioctl(iommu, VFIO_IOMMU_GET_INFO, &i);

	say(name, "%s flags %#x pages %#llx", answer(ret), i.info.flags, (unsigned long long)i.info.iova_pgsizes);
}

static void in_a_group(int type)
{
	const char *bdf = device("EDU");
	int group = open_group(bdf);
	struct vfio_group_status status = { .argsz = sizeof(status) };
	unsigned char *m = pages(8 * PAGE);
	struct door door = { .container = iommu, .group = group };
	uint64_t n;

	say("set-iommu-without-group", "%s", answer(ioctl(iommu, VFIO_SET_IOMMU, (long)type)));
	say("device-without-container", "%s", tried(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf)));
	say("set-container", "%s", answer(ioctl(group, VFIO_GROUP_SET_CONTAINER, &iommu)));
	say("set-container-again", "%s", answer(ioctl(group, VFIO_GROUP_SET_CONTAINER, &iommu)));
	ioctl(group, VFIO_GROUP_GET_STATUS, &status);
	say("status", "%#x", status.flags);
	say("set-iommu-type-2", "%s", answer(ioctl(iommu, VFIO_SET_IOMMU, 2)));
	say("set-iommu", "%s", answer(ioctl(iommu, VFIO_SET_IOMMU, (long)type)));
	say("set-iommu-again", "%s", answer(ioctl(iommu, VFIO_SET_IOMMU, (long)type)));
	get_info("info-before-device");
	say("map", "%s", answer(map(iommu, MIB(1), m, 4 * PAGE, READ | WRITE)));
	door.device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	say("device", "%s", opened(door.device));
	get_info("info");
	say("map-overlap", "%s", answer(map(iommu, MIB(1), m, PAGE, READ | WRITE)));
	say("map-msi-window", "%s", answer(map(iommu, 0xfee00000, m, PAGE, READ | WRITE)));
	say("map-no-permission", "%s", answer(map(iommu, MIB(2), m, PAGE, 0)));
	say("map-size-0", "%s", answer(map(iommu, MIB(2), m, 0, READ)));
	say("map-unaligned", "%s", answer(map(iommu, MIB(2) + 1, m, PAGE, READ)));
	say("map-wraps", "%s", answer(map(iommu, -PAGE, m, 2 * PAGE, READ)));
	say("map-read-only", "%s", answer(map(iommu, MIB(2), m + 4 * PAGE, PAGE, READ)));
	edu_open(&door);
	memcpy(m, "through a group", 16);
	say("device-reads", "%d", edu_from_memory(MIB(1), 0, 64));
	say("device-writes", "%d", edu_to_memory(MIB(1) + PAGE, 0, 64));
	say("arrived", "%s", memcmp(m + PAGE, "through a group", 16) ? "no" : "yes");
	say("unmap-part", "%s", answer(unmap(iommu, MIB(1), PAGE, &n)));
	say("unmapped-part", "%llu", (unsigned long long)n);
	say("unmap-all-there-is", "%s", answer(unmap(iommu, MIB(1), 4 * PAGE, &n)));
	say("unmapped", "%llu", (unsigned long long)n);
	say("unmap-nothing", "%s", answer(unmap(iommu, MIB(30), PAGE, &n)));
	say("unmapped-nothing", "%llu", (unsigned long long)n);
	memset(m, 0, PAGE);
	say("device-writes-unmapped", "%d", edu_to_memory(MIB(1), 0, 64));
	say("memory-is-intact", "%d", m[0] == 0);
	munmap((void *)edu_bar, region(door.device, 0).size);
	say("unset-with-a-device", "%s", answer(ioctl(group, VFIO_GROUP_UNSET_CONTAINER)));
	close(door.device);
	say("unset-again", "%s", answer(ioctl(group, VFIO_GROUP_UNSET_CONTAINER)));
	say("unmap-rest", "%s", answer(unmap(iommu, MIB(2), PAGE, &n)));
	close(group);
	munmap(m, 8 * PAGE);
}

int main(void)
{
	iommu = open_iommu();
	snprintf(prefix, sizeof(prefix), "which/");
	which();
	snprintf(prefix, sizeof(prefix), "calls/");
	calls();
	close(iommu);
	for (int type = VFIO_TYPE1_IOMMU; type <= VFIO_TYPE1v2_IOMMU; type += 2) {
		iommu = open_iommu();
		snprintf(prefix, sizeof(prefix), "type-%d/", type);
		in_a_group(type);
		close(iommu);
	}
	return 0;
}
