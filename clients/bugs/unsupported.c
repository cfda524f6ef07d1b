/*
 * No bug: a program that asks for what swiommu does not have. Each call fails as on a kernel without it, and is named.
 */
#include "../edu.h"

static void fails(int device, unsigned long command, void *argument, int with)
{
	if (ioctl(device, command, argument) != -1 || errno != with)
		die("command %#lx", command);
}

int main(int argc, char **argv)
{
	const char *bdf = argc > 1 ? argv[1] : "0000:00:04.0";
	struct door door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	struct vfio_device_ioeventfd event = { .argsz = sizeof(event), .flags = VFIO_DEVICE_IOEVENTFD_32, .offset = 4, .fd = -1 };
	int device = door.device;

	fails(device, VFIO_DEVICE_IOEVENTFD, &event, ENOTTY);
	return 0;
}
