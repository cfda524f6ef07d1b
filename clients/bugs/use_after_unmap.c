/*
 * A deliberate bug: the driver unmaps a buffer and frees it while its device still has the address, and the device writes
 * there. On hardware this is silent at best. `cargo xtask demo` shows what swiommu says about it.
 */
#include "../edu.h"

#define BUFFER MIB(1)

int main(int argc, char **argv)
{
	const char *bdf = argc > 1 ? argv[1] : "0000:00:04.0";
	struct door door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	char *buffer = pages(PAGE);

	edu_open(&door);
	strcpy(buffer, "the device's data");
	if (map(door.container, BUFFER, buffer, PAGE, READ | WRITE))
		die("MAP_DMA");
	if (edu_from_memory(BUFFER, 0, 64))
		die("the first transfer");
	if (unmap(door.container, BUFFER, PAGE, NULL))
		die("UNMAP_DMA");
	munmap(buffer, PAGE);
	/* The device was not told. */
	edu_to_memory(BUFFER, 0, 64);
	return 0;
}
