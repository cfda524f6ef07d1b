/*
 * Deliberate bugs, one after the other: a device is told to write where nothing was ever mapped, where the mapping is for
 * reading only, beyond the end of a mapping, and while it is no bus master. Each has a report of its own kind.
 */
#include "../edu.h"

int main(int argc, char **argv)
{
	const char *bdf = argc > 1 ? argv[1] : "0000:00:04.0";
	struct door door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	char *buffer = pages(PAGE), *constant = pages(PAGE);

	edu_open(&door);
	if (map(door.container, MIB(1), buffer, PAGE, READ | WRITE) || map(door.container, MIB(2), constant, PAGE, READ))
		die("MAP_DMA");
	edu_to_memory(MIB(3), 0, 64);
	edu_to_memory(MIB(2), 0, 64);
	edu_to_memory(MIB(1) + PAGE - 16, 0, 64);
	edu_command_register(2);
	edu_to_memory(MIB(1), 0, 64);
	if (unmap(door.container, MIB(1), PAGE, NULL) || unmap(door.container, MIB(2), PAGE, NULL))
		die("UNMAP_DMA");
	return 0;
}
