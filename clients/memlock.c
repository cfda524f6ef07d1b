/*
 * Locked-memory accounting of MAP_DMA: a process without CAP_IPC_LOCK and a limit of 256 KiB. Every mapping counts its
 * pages, also those that another mapping counts already; unmapping gives them back.
 */
#include "client.h"
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* Takes CAP_IPC_LOCK away from this process, and no more. */
static void drop_ipc_lock(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &head, data))
		die("capget");
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	data[0].permitted &= ~(1u << CAP_IPC_LOCK);
	if (syscall(SYS_capset, &head, data))
		die("capset");
}

int main(void)
{
	struct rlimit limit = { KIB(256), KIB(256) };
	struct door d;
	char *m, *n;
	int fd;

	drop_ipc_lock();
	if (setrlimit(RLIMIT_MEMLOCK, &limit))
		die("setrlimit");
	m = pages(MIB(2));
	d = open_door(device("NVME"), VFIO_TYPE1v2_IOMMU);
	say("over-the-limit-at-once", "%s", answer(map(d.container, MIB(16), m, KIB(260), READ | WRITE)));
	say("exactly-the-limit", "%s", answer(map(d.container, MIB(16), m, KIB(256), READ | WRITE)));
	say("one-page-more", "%s", answer(map(d.container, MIB(32), m + KIB(256), PAGE, READ | WRITE)));
	say("same-page-elsewhere", "%s", answer(map(d.container, MIB(48), m, PAGE, READ | WRITE)));
	say("unmap", "%s", answer(unmap(d.container, MIB(16), KIB(256), NULL)));
	say("after-unmap", "%s", answer(map(d.container, MIB(32), m + KIB(256), KIB(128), READ | WRITE)));
	say("read-only-counts-too", "%s", answer(map(d.container, MIB(64), m + MIB(1), KIB(256), READ)));
	n = mmap(NULL, KIB(128), 3, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	say("shared-memory-counts-too", "%s", answer(map(d.container, MIB(80), n, KIB(128), READ | WRITE)));
	say("failed-map-gives-back", "%s", answer(map(d.container, MIB(96), m + MIB(1), PAGE * 16, READ | WRITE)));
	fd = memfd_create("client", 0);
	if (fd < 0 || ftruncate(fd, MIB(1)))
		die("memfd_create");
	n = mmap(NULL, MIB(1), 3, MAP_SHARED, fd, 0);
	say("memfd-over-the-limit", "%s", answer(map(d.container, MIB(128), n, MIB(1), READ | WRITE)));
	close_door(&d);
	d = open_door(device("NVME"), VFIO_TYPE1_IOMMU);
	say("all-given-back-by-close", "%s", answer(map(d.container, MIB(16), m, KIB(256), READ | WRITE)));
	close_door(&d);
	return 0;
}
