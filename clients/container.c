/*
 * Containers: API version, extensions, SET_IOMMU, GET_INFO with every argsz, its capability chain, and what a container
 * refuses before and after it has an IOMMU.
 */
#include "client.h"

static void extensions(int c, const char *when)
{
	char name[64];

	for (unsigned i = 0; i <= 14; i++) {
		snprintf(name, sizeof(name), "%s-check-extension-%u", when, i);
		say(name, "%s", answer(ioctl(c, VFIO_CHECK_EXTENSION, i)));
	}
	snprintf(name, sizeof(name), "%s-check-extension-large", when);
	say(name, "%s", answer(ioctl(c, VFIO_CHECK_EXTENSION, 0xffffffffu)));
}

/* Every command number of VFIO with no argument, and a few that are nobody's. */
static void numbers(int c, const char *when)
{
	static const unsigned others[] = { 0, 1, 99, 127, 160, 255 };
	char name[64];

	for (unsigned i = 100; i <= 122; i++) {
		if (i == 100 || i == 101 || i == 102)
			continue;
		snprintf(name, sizeof(name), "%s-command-%u-null", when, i);
		say(name, "%s", answer(ioctl(c, _IO(VFIO_TYPE, i), NULL)));
	}
	for (unsigned i = 0; i < COUNT(others); i++) {
		snprintf(name, sizeof(name), "%s-command-%u-null", when, others[i]);
		say(name, "%s", answer(ioctl(c, _IO(VFIO_TYPE, others[i]), NULL)));
	}
	snprintf(name, sizeof(name), "%s-command-of-another-type", when);
	say(name, "%s", answer(ioctl(c, _IO('x', 100), NULL)));
	snprintf(name, sizeof(name), "%s-command-with-size-bits", when);
	say(name, "%s", answer(ioctl(c, _IOW(VFIO_TYPE, 100, int), NULL)));
}

static void fresh(void)
{
	static const int types[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100, -1 };
	int c = open_container();
	char name[64], buf[8];

	say("api-version", "%s", answer(ioctl(c, VFIO_GET_API_VERSION)));
	say("api-version-with-argument", "%s", answer(ioctl(c, VFIO_GET_API_VERSION, 5)));
	extensions(c, "fresh");
	for (unsigned i = 0; i < COUNT(types); i++) {
		snprintf(name, sizeof(name), "fresh-set-iommu-%d", types[i]);
		say(name, "%s", answer(ioctl(c, VFIO_SET_IOMMU, types[i])));
	}
	numbers(c, "fresh");
	say("fresh-map", "%s", answer(map(c, 0, pages(PAGE), PAGE, READ)));
	say("fresh-unmap", "%s", answer(unmap(c, 0, PAGE, NULL)));
	say("fresh-read", "%s", answer(read(c, buf, sizeof(buf))));
	say("fresh-write", "%s", answer(write(c, buf, sizeof(buf))));
	say("fresh-pread", "%s", answer(pread(c, buf, sizeof(buf), 0)));
	say("fresh-mmap", "%s", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, c, 0) == MAP_FAILED ? answer(-1) : "mapped");
	say("close", "%s", answer(close(c)));
	say("open-read-only", "%s", opened(c = open("/dev/vfio/vfio", O_RDONLY)));
	say("read-only-api-version", "%s", answer(ioctl(c, VFIO_GET_API_VERSION)));
	close(c);
}

static void fstat_shows_a_device(void)
{
	int c = open_container();
	struct stat st;

	fstat(c, &st);
	say("fstat", "%s %u:%u", S_ISCHR(st.st_mode) ? "character device" : "something else",
	    (unsigned)(st.st_rdev >> 8), (unsigned)(st.st_rdev & 255));
	close(c);
}

static void set_iommu(void)
{
	static const int refused[] = { 0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 100, -1 };
	int c = open_container(), g = open_group(device("NVME"));
	char name[64];

	say("set-container", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c)));
	extensions(c, "grouped");
	for (unsigned i = 0; i < COUNT(refused); i++) {
		snprintf(name, sizeof(name), "grouped-set-iommu-%d", refused[i]);
		say(name, "%s", answer(ioctl(c, VFIO_SET_IOMMU, refused[i])));
	}
	say("grouped-map", "%s", answer(map(c, 0, pages(PAGE), PAGE, READ)));
	say("set-iommu-type1", "%s", answer(ioctl(c, VFIO_SET_IOMMU, 1)));
	say("set-iommu-type1-again", "%s", answer(ioctl(c, VFIO_SET_IOMMU, 1)));
	say("set-iommu-type1v2-after-type1", "%s", answer(ioctl(c, VFIO_SET_IOMMU, 3)));
	say("set-iommu-unknown-after-type1", "%s", answer(ioctl(c, VFIO_SET_IOMMU, 77)));
	extensions(c, "type1");
	numbers(c, "type1");
	close(g);
	close(c);
	/* The last group's leaving takes the IOMMU with it. */
	c = open_container();
	g = open_group(device("NVME"));
	say("set-container-of-second", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c)));
	say("set-iommu-type1v2", "%s", answer(ioctl(c, VFIO_SET_IOMMU, 3)));
	extensions(c, "type1v2");
	numbers(c, "type1v2");
	say("unset-container", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	say("emptied-set-iommu", "%s", answer(ioctl(c, VFIO_SET_IOMMU, 1)));
	say("emptied-map", "%s", answer(map(c, 0, pages(PAGE), PAGE, READ)));
	say("emptied-check-extension-1", "%s", answer(ioctl(c, VFIO_CHECK_EXTENSION, 1)));
	say("set-container-back", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c)));
	say("set-iommu-type1-back", "%s", answer(ioctl(c, VFIO_SET_IOMMU, 1)));
	close(g);
	close(c);
}

/* One GET_INFO with `argsz`, over a buffer of a known pattern. */
static void info_of_size(int c, unsigned argsz)
{
	unsigned char buf[512];
	struct vfio_iommu_type1_info *info = (void *)buf;
	char name[64];
	unsigned written = 0;
	int ret;

	memset(buf, 0xa5, sizeof(buf));
	info->argsz = argsz;
	info->flags = 0xa5a5a5a5;
	ret = ioctl(c, VFIO_IOMMU_GET_INFO, buf);
	for (unsigned i = 0; i < sizeof(buf); i++)
		if (i >= 4 && buf[i] != 0xa5)
			written = i + 1;
	snprintf(name, sizeof(name), "get-info-argsz-%u", argsz);
	if (ret)
		say(name, "%s, written %u", answer(ret), written);
	else
		say(name, "0, argsz %u flags %#x pgsizes %#llx cap %#x, written %u", info->argsz, info->flags,
		    (unsigned long long)info->iova_pgsizes, argsz >= 20 ? info->cap_offset : 0, written);
}

static void capabilities(int c)
{
	static unsigned char buf[4096];
	struct vfio_iommu_type1_info *info = (void *)buf;
	unsigned at;

	info->argsz = sizeof(buf);
	say("get-info-roomy", "%s", answer(ioctl(c, VFIO_IOMMU_GET_INFO, info)));
	say("info-needs", "%u", info->argsz);
	say("info-flags", "%#x", info->flags);
	for (at = info->cap_offset; at; at = ((struct vfio_info_cap_header *)(buf + at))->next) {
		struct vfio_info_cap_header *h = (void *)(buf + at);
		struct vfio_iommu_type1_info_cap_iova_range *ranges = (void *)h;
		struct vfio_iommu_type1_info_cap_migration *mig = (void *)h;
		struct vfio_iommu_type1_info_dma_avail *avail = (void *)h;

		say("capability", "id %u version %u at %u next %u", h->id, h->version, at, h->next);
		switch (h->id) {
		case VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
			for (unsigned i = 0; i < ranges->nr_iovas; i++)
				say("iova-range", "%#llx..=%#llx", (unsigned long long)ranges->iova_ranges[i].start,
				    (unsigned long long)ranges->iova_ranges[i].end);
			break;
		case VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
			say("migration", "flags %#x pgsizes %#llx bitmap %llu", mig->flags,
			    (unsigned long long)mig->pgsize_bitmap,
			    (unsigned long long)mig->max_dirty_bitmap_size);
			break;
		case VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
			say("dma-avail", "%u", avail->avail);
			break;
		}
	}
}

static void info(int type)
{
	struct door d = open_door(device("NVME"), type);
	static unsigned char buf[4096];
	struct vfio_iommu_type1_info *info = (void *)buf;
	unsigned full;

	snprintf(prefix, sizeof(prefix), type == 1 ? "v1-" : "v2-");
	info->argsz = 24;
	ioctl(d.container, VFIO_IOMMU_GET_INFO, info);
	full = info->argsz;
	for (unsigned i = 0; i <= full + 8; i += i < 32 || i >= full - 8 ? 1 : 8)
		info_of_size(d.container, i);
	info_of_size(d.container, 0x7fffffff);
	info_of_size(d.container, 0xffffffff);
	say("get-info-null", "%s", answer(ioctl(d.container, VFIO_IOMMU_GET_INFO, NULL)));
	say("get-info-bad-pointer", "%s", answer(ioctl(d.container, VFIO_IOMMU_GET_INFO, 0x1000)));
	capabilities(d.container);
	prefix[0] = 0;
	close_door(&d);
}

/* A container keeps its maps when the descriptor is duplicated, and two containers are two address spaces. */
static void two_containers(void)
{
	struct door a = open_door(device("NVME"), 1), b = open_door(device("EDU"), 3);
	char *m = pages(PAGE);
	int again = dup(a.container);

	say("map-in-first", "%s", answer(map(a.container, MIB(1), m, PAGE, READ | WRITE)));
	say("map-same-iova-in-second", "%s", answer(map(b.container, MIB(1), m, PAGE, READ | WRITE)));
	say("map-through-duplicate", "%s", answer(map(again, MIB(1), m, PAGE, READ | WRITE)));
	close(a.container);
	a.container = again;
	say("unmap-through-duplicate", "%s", answer(unmap(again, MIB(1), PAGE, NULL)));
	close_door(&a);
	close_door(&b);
}

/* Two groups in one container share its maps; the second joins after SET_IOMMU. */
static void two_groups(void)
{
	struct door a = open_door(device("NVME"), 3);
	int g = open_group(device("NIC"));
	char *m = pages(PAGE);

	say("map-before-second-group", "%s", answer(map(a.container, MIB(1), m, PAGE, READ | WRITE)));
	say("second-group-joins", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &a.container)));
	say("set-iommu-with-two-groups", "%s", answer(ioctl(a.container, VFIO_SET_IOMMU, 3)));
	say("first-group-leaves", "%s", answer(ioctl(a.group, VFIO_GROUP_UNSET_CONTAINER)));
	say("map-again-after-leave", "%s", answer(map(a.container, MIB(1), m, PAGE, READ | WRITE)));
	say("second-group-leaves", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	say("map-in-empty", "%s", answer(map(a.container, MIB(1), m, PAGE, READ | WRITE)));
	say("first-group-comes-back", "%s", answer(ioctl(a.group, VFIO_GROUP_SET_CONTAINER, &a.container)));
	say("set-iommu-again", "%s", answer(ioctl(a.container, VFIO_SET_IOMMU, 1)));
	say("maps-are-gone", "%s", answer(map(a.container, MIB(1), m, PAGE, READ | WRITE)));
	close(g);
	close_door(&a);
}

int main(void)
{
	fresh();
	fstat_shows_a_device();
	set_iommu();
	info(1);
	info(3);
	two_containers();
	two_groups();
	return 0;
}
