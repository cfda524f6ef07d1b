/*
 * What a call costs: an ioctl that swiommu answers, one that it passes on, and the same system calls without libc, made
 * by an instruction of this program that nobody interposes.
 */
#include "bench.h"
#include <sys/syscall.h>

static int container, event;

static long direct(long number, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return ret;
}

static void version(unsigned n)
{
	while (n--)
		if (ioctl(container, VFIO_GET_API_VERSION) != VFIO_API_VERSION)
			die("the API version");
}

static void direct_bad(unsigned n)
{
	while (n--)
		direct(SYS_ioctl, -1, VFIO_GET_API_VERSION, 0);
}

static void direct_event(unsigned n)
{
	while (n--)
		direct(SYS_ioctl, event, VFIO_GET_API_VERSION, 0);
}

static void passed_bad(unsigned n)
{
	while (n--)
		ioctl(-1, VFIO_GET_API_VERSION);
}

static void passed_event(unsigned n)
{
	while (n--)
		ioctl(event, VFIO_GET_API_VERSION);
}

static void event_write(unsigned n)
{
	uint64_t one = 1;

	while (n--)
		direct(SYS_write, event, (long)&one, 8);
}

int main(int argc, char **argv)
{
	struct contender all[] = {
		{ .name = "api-version", .body = version, .n = 200000 },
		{ .name = "direct-ioctl-bad-descriptor", .body = direct_bad, .n = 100000 },
		{ .name = "direct-ioctl-eventfd", .body = direct_event, .n = 100000 },
		{ .name = "passed-ioctl-bad-descriptor", .body = passed_bad, .n = 100000 },
		{ .name = "passed-ioctl-eventfd", .body = passed_event, .n = 100000 },
		{ .name = "direct-eventfd-write", .body = event_write, .n = 100000 },
	};

	arguments(argc, argv);
	container = open_container();
	event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	race(all, COUNT(all));
	return 0;
}
