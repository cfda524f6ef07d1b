/*
 * What every client program here shares: one line per case, errors by name, and the way from a PCI address to its
 * group, container and device descriptor that every VFIO program takes.
 *
 * The programs use nothing but <linux/vfio.h> and libc. The same source runs twice: linked statically on a real kernel
 * (`cargo xtask record`), and dynamically under `swiommu run`. A line is `case-name: result`; results carry no
 * addresses, no descriptor numbers and no times, so that the two can be compared line by line.
 *
 * The machine's devices are named in the environment: DEVICE_NVME, DEVICE_EDU, DEVICE_NIC, DEVICE_MF0, DEVICE_MF1,
 * DEVICE_BR0, DEVICE_BR1 hold PCI addresses.
 */
#ifndef CLIENT_H
#define CLIENT_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define PAGE 4096ul
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* The name of an error number, or its number when it has no business here. */
static const char *error_name(int e)
{
	static char other[16];

	switch (e) {
#define NAME(x) case x: return #x;
	NAME(EPERM) NAME(ENOENT) NAME(EINTR) NAME(EIO) NAME(ENXIO) NAME(E2BIG) NAME(EBADF) NAME(EAGAIN) NAME(ENOMEM)
	NAME(EACCES) NAME(EFAULT) NAME(EBUSY) NAME(EEXIST) NAME(ENODEV) NAME(EINVAL) NAME(ENFILE) NAME(EMFILE)
	NAME(ENOTTY) NAME(EFBIG) NAME(ENOSPC) NAME(ESPIPE) NAME(EROFS) NAME(ERANGE) NAME(ENOSYS) NAME(EOVERFLOW)
	NAME(EOPNOTSUPP) NAME(EPROTO) NAME(EADDRINUSE) NAME(ETIMEDOUT) NAME(EBADFD) NAME(EMSGSIZE)
	NAME(ENOMSG)
#undef NAME
	}
	snprintf(other, sizeof(other), "E%d", e);
	return other;
}

/* What a call answered: its value, or the name of its error. */
static const char *answer(long ret)
{
	static char text[8][32];
	static unsigned next;
	char *t = text[next++ % 8];

	if (ret >= 0)
		snprintf(t, sizeof(text[0]), "%ld", ret);
	else
		snprintf(t, sizeof(text[0]), "%s", error_name(errno));
	return t;
}

/* As `answer`, for calls that return a new descriptor. */
static inline const char *opened(int fd)
{
	return fd >= 0 ? "opened" : answer(fd);
}

/* As `opened`, and closes it again. */
static inline const char *tried(int fd)
{
	const char *text = opened(fd);

	if (fd >= 0)
		close(fd);
	return text;
}

static char prefix[64];

/* Prints one case. */
__attribute__((format(printf, 2, 3))) static void say(const char *name, const char *format, ...)
{
	va_list ap;

	printf("%s%s: ", prefix, name);
	va_start(ap, format);
	vprintf(format, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
}

/* Gives up: the machine is not what the program needs. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vfprintf(stderr, format, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(errno));
	exit(99);
}

/* The PCI address of a device by its role: "NVME" is in DEVICE_NVME. */
static inline const char *device(const char *role)
{
	char name[32];
	const char *bdf;

	snprintf(name, sizeof(name), "DEVICE_%s", role);
	bdf = getenv(name);
	if (!bdf || !*bdf) {
		errno = ENODEV;
		die("%s is not set", name);
	}
	return bdf;
}

/* The number of a device's group, from sysfs. */
static inline int group_number(const char *bdf)
{
	char path[PATH_MAX], link[PATH_MAX], *last;
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		die("%s", path);
	link[n] = 0;
	last = strrchr(link, '/');
	return atoi(last ? last + 1 : link);
}

/* Opens a device's group. */
static inline int open_group(const char *bdf)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/dev/vfio/%d", group_number(bdf));
	return open(path, O_RDWR | O_CLOEXEC);
}

/* Opens a new container. */
static inline int open_container(void)
{
	int fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/vfio/vfio");
	return fd;
}

/* A container with one group and an IOMMU of `type`, and the device in it. */
struct door {
	int container, group, device;
};

static inline struct door open_door(const char *bdf, int type)
{
	struct door d = { .container = open_container(), .group = open_group(bdf), .device = -1 };

	if (d.group < 0)
		die("the group of %s", bdf);
	if (ioctl(d.group, VFIO_GROUP_SET_CONTAINER, &d.container))
		die("SET_CONTAINER");
	if (ioctl(d.container, VFIO_SET_IOMMU, type))
		die("SET_IOMMU");
	return d;
}

/* As `open_door`, and opens the device. */
static inline struct door open_device(const char *bdf, int type)
{
	struct door d = open_door(bdf, type);

	d.device = ioctl(d.group, VFIO_GROUP_GET_DEVICE_FD, bdf);
	if (d.device < 0)
		die("GET_DEVICE_FD %s", bdf);
	return d;
}

static inline void close_door(struct door *d)
{
	if (d->device >= 0)
		close(d->device);
	close(d->group);
	close(d->container);
}

/* MAP_DMA and UNMAP_DMA in their usual form. */
#define READ VFIO_DMA_MAP_FLAG_READ
#define WRITE VFIO_DMA_MAP_FLAG_WRITE

static inline int map(int container, uint64_t iova, const volatile void *vaddr, uint64_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map m = {
		.argsz = sizeof(m), .flags = flags, .vaddr = (uintptr_t)vaddr, .iova = iova, .size = size,
	};

	return ioctl(container, VFIO_IOMMU_MAP_DMA, &m);
}

static inline int unmap(int container, uint64_t iova, uint64_t size, uint64_t *unmapped)
{
	struct vfio_iommu_type1_dma_unmap u = { .argsz = sizeof(u), .iova = iova, .size = size };
	int ret = ioctl(container, VFIO_IOMMU_UNMAP_DMA, &u);

	if (unmapped)
		*unmapped = u.size;
	return ret;
}

/* Anonymous private memory, populated on first touch. */
static inline void *pages(uint64_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

/* Where a region lies in the device's descriptor, and how long it is. */
static inline struct vfio_region_info region(int device, unsigned index)
{
	struct vfio_region_info r = { .argsz = sizeof(r), .index = index };

	if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &r))
		die("GET_REGION_INFO %u", index);
	return r;
}

#endif
