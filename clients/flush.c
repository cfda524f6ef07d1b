/*
 * Writes block after block of a disk, each with its own number, flushes at every seventh and then prints how many blocks
 * are safe. It is there to be killed.
 */
#include "nvme.h"

int main(void)
{
	static struct nvme n;
	struct door door = open_device(device("NVME"), VFIO_TYPE1v2_IOMMU);
	uint64_t *block;

	if (nvme_start(&n, &door) || nvme_io_queues(&n))
		die("the controller did not start");
	block = pages(PAGE);
	if (map(door.container, MIB(4), block, PAGE, READ | WRITE))
		die("MAP_DMA");
	for (uint64_t i = 0; i < 16384; i++) {
		block[0] = i + 1;
		if (nvme_io(&n, 1, i, 1, MIB(4), 0))
			die("write %llu", (unsigned long long)i);
		if (i % 7 == 6) {
			if (nvme_run(&n, &n.io, nvme_command(0, 1, 0, 0), NULL))
				die("flush");
			printf("%llu\n", (unsigned long long)i + 1);
			fflush(stdout);
		}
	}
	return 0;
}
