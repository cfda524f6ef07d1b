/* IOAS_MAP_FILE: pages of a memory file, without and with a device that reads them. */
#include "edu.h"
#include "iommufd.h"

static int iommu;

static int map_file(uint32_t ioas, int fd, uint64_t start, uint64_t length, uint64_t iova, uint32_t flags)
{
	struct ioas_map_file m = { .flags = flags, .ioas_id = ioas, .fd = fd, .start = start, .length = length,
				   .iova = iova };

	return COMMAND(iommu, IOAS_MAP_FILE, &m);
}

static int memory_file(uint64_t bytes)
{
	int fd = memfd_create("test", 0);

	if (fd < 0 || ftruncate(fd, bytes))
		die("memfd_create");
	return fd;
}

#define FIXED (MAP_FIXED_IOVA | MAP_RW)

int main(void)
{
	uint32_t ioas, dev, pt;
	int fd = memory_file(4 * PAGE), plain = open("/dev/null", O_RDWR), ordinary = open("/proc/self/exe", O_RDONLY);
	unsigned char *m = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct ioas_map_file any = { .flags = MAP_RW, .fd = fd, .length = PAGE };
	struct door door = {};

	iommu = open_iommu();
	ioas = ioas_alloc(iommu);
	say("map", "%s", answer(map_file(ioas, fd, 0, 2 * PAGE, MIB(1), FIXED)));
	say("map-offset", "%s", answer(map_file(ioas, fd, PAGE, PAGE, MIB(2), FIXED)));
	say("map-odd-offset", "%s", answer(map_file(ioas, fd, 3, 5, MIB(3) + 3, FIXED)));
	say("map-overlap", "%s", answer(map_file(ioas, fd, 0, PAGE, MIB(1), FIXED)));
	say("map-beyond-end", "%s", answer(map_file(ioas, fd, 3 * PAGE, 2 * PAGE, MIB(4), FIXED)));
	say("map-wraps", "%s", answer(map_file(ioas, fd, -PAGE, 2 * PAGE, MIB(5), FIXED)));
	say("map-length-0", "%s", answer(map_file(ioas, fd, 0, 0, MIB(6), FIXED)));
	say("map-closed", "%s", answer(map_file(ioas, 999, 0, PAGE, MIB(7), FIXED)));
	say("map-minus-1", "%s", answer(map_file(ioas, -1, 0, PAGE, MIB(7), FIXED)));
	say("map-dev-null", "%s", answer(map_file(ioas, plain, 0, PAGE, MIB(7), FIXED)));
	say("map-ordinary-file", "%s", answer(map_file(ioas, ordinary, 0, PAGE, MIB(7), FIXED)));
	say("map-iommufd", "%s", answer(map_file(ioas, iommu, 0, PAGE, MIB(7), FIXED)));
	say("map-no-permission", "%s", answer(map_file(ioas, fd, 0, PAGE, MIB(7), MAP_FIXED_IOVA)));
	say("map-unknown-flag", "%s", answer(map_file(ioas, fd, 0, PAGE, MIB(7), 8 | FIXED)));
	say("map-ioas-999", "%s", answer(map_file(999, fd, 0, PAGE, MIB(7), FIXED)));
	any.ioas_id = ioas;
	say("map-anywhere", "%s", answer(COMMAND(iommu, IOAS_MAP_FILE, &any)));

	/* nothing was pinned yet: a device could not be attached to what cannot be, nor to odd addresses */
	say("unmap-what-a-device-cannot-have", "%s", answer(ioas_unmap(iommu, ioas, MIB(3), MIB(5), NULL)));
	door.device = open_bound(device("EDU"), iommu, &dev);
	pt = ioas;
	say("attach", "%s", answer(attach_to(door.device, &pt)));
	edu_open(&door);
	memcpy(m, "from the file", 14);
	say("device-reads", "%d", edu_from_memory(MIB(1), 0, 64));
	say("device-writes", "%d", edu_to_memory(MIB(2), 0, 64));
	say("file-has-it", "%s", memcmp(m + PAGE, "from the file", 14) ? "no" : "yes");
	munmap(m, 4 * PAGE);
	close(fd);
	say("device-reads-after-close", "%d", edu_from_memory(MIB(2), 0, 64));
	close(door.device);
	say("destroy", "%s", answer(destroy(iommu, ioas)));
	return 0;
}
