/*
 * Where the time of a request to an emulated NVMe goes: a register read (a trap and little else), a 4 KiB READ command
 * from its doorbell to its completion, polled, and a write to an eventfd.
 */
#include "../nvme.h"
#include "bench.h"

#define DATA MIB(4)

static struct nvme controller;
static int event;

static void register_read(unsigned n)
{
	while (n--)
		(void)*nvme_reg(&controller, 0x1c);
}

static void command(unsigned n)
{
	while (n--)
		if (nvme_io(&controller, 2, n % 1024 * 8, 8, DATA, 0))
			die("READ");
}

static void event_write(unsigned n)
{
	uint64_t one = 1;

	while (n--)
		if (write(event, &one, sizeof(one)) != sizeof(one))
			die("eventfd");
}

int main(int argc, char **argv)
{
	struct contender all[] = {
		{ .name = "register-read", .body = register_read, .n = 20000 },
		{ .name = "read-4k", .body = command, .n = 10000 },
		{ .name = "eventfd-write", .body = event_write, .n = 20000 },
	};
	struct door door = open_device(device("NVME"), VFIO_TYPE1v2_IOMMU);
	unsigned char *memory = pages(PAGE);

	arguments(argc, argv);
	event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (nvme_start(&controller, &door) || nvme_io_queues(&controller))
		die("the controller");
	if (map(door.container, DATA, memory, PAGE, READ | WRITE))
		die("mapping");
	for (unsigned block = 0; block < 1024 * 8; block += 8)
		if (nvme_io(&controller, 1, block, 8, DATA, 0))
			die("WRITE");
	race(all, COUNT(all));
	nvme_stop(&controller);
	close_door(&door);
	return 0;
}
