/*
 * What the client programs of /dev/iommu and of device nodes share. Numbers and structs are written down here because
 * the machine's own <linux/vfio.h> may be older than both.
 */
#ifndef IOMMUFD_H
#define IOMMUFD_H

#include "client.h"
#include <dirent.h>

#define NR(n) _IO(';', n)

enum { DESTROY = 0x80, IOAS_ALLOC, IOAS_ALLOW_IOVAS, IOAS_COPY, IOAS_IOVA_RANGES, IOAS_MAP, IOAS_UNMAP, OPTION,
       VFIO_IOAS, HWPT_ALLOC, GET_HW_INFO, SET_DIRTY_TRACKING, GET_DIRTY_BITMAP, HWPT_INVALIDATE, FAULT_QUEUE_ALLOC,
       IOAS_MAP_FILE, VIOMMU_ALLOC, VDEVICE_ALLOC, IOAS_CHANGE_PROCESS, VEVENTQ_ALLOC, HW_QUEUE_ALLOC };

struct destroy { uint32_t size, id; };
struct ioas_alloc { uint32_t size, flags, out_ioas_id; };
struct ioas_allow { uint32_t size, ioas_id, num_iovas, reserved; uint64_t allowed_iovas; };
struct ioas_copy { uint32_t size, flags, dst_ioas_id, src_ioas_id; uint64_t length, dst_iova, src_iova; };
struct ioas_ranges { uint32_t size, ioas_id, num_iovas, reserved; uint64_t allowed_iovas, out_iova_alignment; };
struct ioas_map { uint32_t size, flags, ioas_id, reserved; uint64_t user_va, length, iova; };
struct ioas_map_file { uint32_t size, flags, ioas_id; int32_t fd; uint64_t start, length, iova; };
struct ioas_unmap { uint32_t size, ioas_id; uint64_t iova, length; };
struct option { uint32_t size, option_id; uint16_t op, reserved; uint32_t object_id; uint64_t val64; };
struct vfio_ioas { uint32_t size, ioas_id; uint16_t op, reserved; };
struct hwpt_alloc { uint32_t size, flags, dev_id, pt_id, out_hwpt_id, reserved, data_type, data_len; uint64_t data_uptr;
		    uint32_t fault_id, reserved2; };
struct hw_info { uint32_t size, flags, dev_id, data_len; uint64_t data_uptr; uint32_t data_type;
		 uint8_t out_max_pasid_log2, reserved[3]; uint64_t out_capabilities; };
struct set_dirty { uint32_t size, flags, hwpt_id, reserved; };
struct get_dirty { uint32_t size, hwpt_id, flags, reserved; uint64_t iova, length, page_size, data; };
struct range { uint64_t start, last; };

#define MAP_FIXED_IOVA 1u
#define MAP_WRITEABLE 2u
#define MAP_READABLE 4u
#define MAP_RW (MAP_WRITEABLE | MAP_READABLE)

/* Fills in the size of a command's struct and runs it. */
#define COMMAND(fd, nr, cmd) ((cmd)->size = sizeof(*(cmd)), ioctl(fd, NR(nr), cmd))

static inline int open_iommu(void)
{
	int fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/iommu");
	return fd;
}

static inline uint32_t ioas_alloc(int fd)
{
	struct ioas_alloc a = {};

	if (COMMAND(fd, IOAS_ALLOC, &a))
		die("IOAS_ALLOC");
	return a.out_ioas_id;
}

static inline int destroy(int fd, uint32_t id)
{
	struct destroy d = { .id = id };

	return COMMAND(fd, DESTROY, &d);
}

static inline int ioas_map(int fd, uint32_t ioas, uint64_t iova, const volatile void *va, uint64_t length)
{
	struct ioas_map m = { .flags = MAP_FIXED_IOVA | MAP_RW, .ioas_id = ioas, .user_va = (uintptr_t)va,
			      .length = length, .iova = iova };

	return COMMAND(fd, IOAS_MAP, &m);
}

static inline int ioas_unmap(int fd, uint32_t ioas, uint64_t iova, uint64_t length, uint64_t *unmapped)
{
	struct ioas_unmap u = { .ioas_id = ioas, .iova = iova, .length = length };
	int ret = COMMAND(fd, IOAS_UNMAP, &u);

	if (unmapped)
		*unmapped = u.length;
	return ret;
}

static inline int hwpt_alloc(int fd, uint32_t dev, uint32_t pt, uint32_t flags, uint32_t *id)
{
	struct hwpt_alloc h = { .flags = flags, .dev_id = dev, .pt_id = pt };
	int ret = COMMAND(fd, HWPT_ALLOC, &h);

	*id = h.out_hwpt_id;
	return ret;
}

/* Prints the ranges that an address space can map. */
static inline void say_ranges(const char *name, int fd, uint32_t ioas)
{
	struct range ranges[16];
	struct ioas_ranges r = { .ioas_id = ioas, .num_iovas = 16, .allowed_iovas = (uintptr_t)ranges };
	char line[1024] = "";
	int ret = COMMAND(fd, IOAS_IOVA_RANGES, &r);

	for (unsigned i = 0; !ret && i < r.num_iovas; i++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line), " %llx-%llx",
			 (unsigned long long)ranges[i].start, (unsigned long long)ranges[i].last);
	say(name, "%s n=%u align=%llu%s", answer(ret), r.num_iovas, (unsigned long long)r.out_iova_alignment, line);
}

/* Device nodes. */
#define BIND _IO(';', 118)
#define ATTACH _IO(';', 119)
#define DETACH _IO(';', 120)

struct bind { uint32_t argsz, flags; int32_t iommufd; uint32_t out_devid; uint64_t token_uuid_ptr; };
struct attach { uint32_t argsz, flags, pt_id, pasid; };
struct detach { uint32_t argsz, flags, pasid; };

/* The name of a device's node: "vfio3". */
static inline void node_name(const char *bdf, char name[32])
{
	char path[PATH_MAX];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev", bdf);
	dir = opendir(path);
	if (!dir)
		die("%s", path);
	while ((entry = readdir(dir)))
		if (!strncmp(entry->d_name, "vfio", 4))
			break;
	if (!entry)
		die("%s is empty", path);
	snprintf(name, 32, "%.31s", entry->d_name);
	closedir(dir);
}

static inline int open_node(const char *bdf)
{
	char name[32], path[64];

	node_name(bdf, name);
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", name);
	return open(path, O_RDWR | O_CLOEXEC);
}

/* BIND_IOMMUFD without a token. */
static inline int bind_to(int device, int iommufd, uint32_t *id)
{
	struct bind b = { .argsz = 16, .iommufd = iommufd };
	int ret = ioctl(device, BIND, &b);

	if (id)
		*id = b.out_devid;
	return ret;
}

/* ATTACH_IOMMUFD_PT; `*pt` becomes the page table's id. */
static inline int attach_to(int device, uint32_t *pt)
{
	struct attach a = { .argsz = 12, .pt_id = *pt };
	int ret = ioctl(device, ATTACH, &a);

	*pt = a.pt_id;
	return ret;
}

static inline int detach_from(int device)
{
	struct detach d = { .argsz = 8 };

	return ioctl(device, DETACH, &d);
}

/* Opens and binds, or gives up. */
static inline int open_bound(const char *bdf, int iommufd, uint32_t *id)
{
	int device = open_node(bdf);

	if (device < 0)
		die("the node of %s", bdf);
	if (bind_to(device, iommufd, id))
		die("BIND_IOMMUFD of %s", bdf);
	return device;
}

#endif
