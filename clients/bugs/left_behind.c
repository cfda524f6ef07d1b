/*
 * A program that ends with memory still mapped for its device. Legal, for the kernel cleans up; told, because a long-lived
 * process that does it leaks pinned memory.
 */
#include "../client.h"

int main(int argc, char **argv)
{
	const char *bdf = argc > 1 ? argv[1] : "0000:00:04.0";
	struct door door = open_device(bdf, VFIO_TYPE1v2_IOMMU);

	if (map(door.container, MIB(1), pages(2 * PAGE), 2 * PAGE, READ | WRITE))
		die("MAP_DMA");
	return 0;
}
