/*
 * A device's own node: its place in sysfs, what it answers before it is bound, BIND_IOMMUFD, attaching, replacing and
 * detaching, with two devices of one group, and against the group's own node.
 */
#include "iommufd.h"

#include <sys/sysmacros.h>

#define GET_INFO VFIO_DEVICE_GET_INFO

static const char *same(int v)
{
	return v ? "same" : "other";
}

static int get_info(int device)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	return ioctl(device, GET_INFO, &info);
}

static void node(const char *bdf)
{
	char name[32], path[PATH_MAX], line[64] = "", number[64];
	struct stat st;
	int fd = open_node(bdf);
	FILE *f;

	node_name(bdf, name);
	say("open", "%s", opened(fd));
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vfio-dev/%s/dev", bdf, name);
	f = fopen(path, "r");
	say("dev-attribute", "%s", f && fgets(line, sizeof(line), f) ? "there" : "missing");
	if (f)
		fclose(f);
	fstat(fd, &st);
	snprintf(number, sizeof(number), "%u:%u\n", major(st.st_rdev), minor(st.st_rdev));
	say("character-device", "%d", S_ISCHR(st.st_mode));
	say("number-and-attribute", "%s", same(!strcmp(number, line)));
	snprintf(path, sizeof(path), "/dev/vfio/devices/%s", name);
	say("stat-of-node", "%s", same(!stat(path, &st) && S_ISCHR(st.st_mode)));
	snprintf(path, sizeof(path), "/sys/class/vfio-dev/%s", name);
	say("class-link", "%s", answer(readlink(path, line, sizeof(line)) > 0 ? 0 : -1));
	close(fd);
}

static void unbound(const char *bdf)
{
	int fd = open_node(bdf), second = open_node(bdf);
	char byte = 0;
	uint32_t pt = 1;
	void *p;

	say("second-open", "%s", opened(second));
	close(second);
	say("get-info", "%s", answer(get_info(fd)));
	say("get-info-null", "%s", answer(ioctl(fd, GET_INFO, 0)));
	say("reset", "%s", answer(ioctl(fd, VFIO_DEVICE_RESET)));
	say("unknown", "%s", answer(ioctl(fd, _IO(';', 250), 0)));
	say("attach", "%s", answer(attach_to(fd, &pt)));
	say("detach", "%s", answer(detach_from(fd)));
	say("read", "%s", answer(pread(fd, &byte, 1, 7ull << 40)));
	say("write", "%s", answer(pwrite(fd, &byte, 1, 7ull << 40)));
	p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	say("mmap", "%s", p == MAP_FAILED ? error_name(errno) : "mapped");
	close(fd);
}

static void binding(const char *bdf)
{
	int iommu = open_iommu(), fd = open_node(bdf), other = open_node(bdf), file = open("/dev/null", O_RDWR), ret;
	struct { struct bind b; uint64_t more[2]; } big = {};
	struct bind b = { .argsz = 16, .iommufd = iommu, .out_devid = 77 };
	unsigned char uuid[16] = { 1 };
	uint32_t id;

	say("null", "%s", answer(ioctl(fd, BIND, 0)));
	b.argsz = 15;
	say("argsz-15", "%s", answer(ioctl(fd, BIND, &b)));
	b.argsz = 16;
	b.flags = 2;
	say("unknown-flag", "%s", answer(ioctl(fd, BIND, &b)));
	b.flags = 0;
	b.iommufd = -2;
	say("iommufd-minus-2", "%s", answer(ioctl(fd, BIND, &b)));
	b.iommufd = 999;
	say("iommufd-closed", "%s", answer(ioctl(fd, BIND, &b)));
	b.iommufd = file;
	say("iommufd-is-dev-null", "%s", answer(ioctl(fd, BIND, &b)));
	b.iommufd = fd;
	say("iommufd-is-the-device", "%s", answer(ioctl(fd, BIND, &b)));
	b.iommufd = iommu;
	b.flags = 1;
	b.argsz = sizeof(b);
	say("token-null", "%s", answer(ioctl(fd, BIND, &b)));
	b.token_uuid_ptr = (uintptr_t)uuid;
	say("token-of-no-use", "%s", answer(ioctl(fd, BIND, &b)));
	b.argsz = 16;
	say("token-flag-without-field", "%s", answer(ioctl(fd, BIND, &b)));
	big.b.argsz = sizeof(big);
	big.b.iommufd = iommu;
	big.more[1] = 1;
	say("argsz-40-not-zero", "%s", answer(ioctl(fd, BIND, &big)));
	big.more[1] = 0;
	say("failed-leave-out-devid", "%u", b.out_devid);
	ret = ioctl(fd, BIND, &big);
	id = big.b.out_devid;
	say("argsz-40-zero", "%s", answer(ret));
	say("first-id", "%u", id);
	say("bind-again", "%s", answer(bind_to(fd, iommu, NULL)));
	say("get-info", "%s", answer(get_info(fd)));
	say("bind-by-another-file", "%s", answer(bind_to(other, iommu, NULL)));
	say("other-file-get-info", "%s", answer(get_info(other)));
	say("group-while-bound", "%s", tried(open_group(bdf)));
	say("destroy-the-device", "%s", answer(destroy(iommu, id)));
	close(iommu);
	say("get-info-after-iommu-closed", "%s", answer(get_info(fd)));
	close(fd);
	say("group-after-close", "%s", tried(open_group(bdf)));
	iommu = open_iommu();
	say("other-file-binds-now", "%s", answer(bind_to(other, iommu, &id)));
	say("its-id", "%u", id);
	close(other);
	say("destroy-after-close", "%s", answer(destroy(iommu, id)));
	close(iommu);
	close(file);
}

static void attaching(const char *bdf)
{
	int iommu = open_iommu(), fd = open_node(bdf);
	uint32_t dev, ioas, other, hwpt, automatic, pt, second;
	struct attach a = { .argsz = 11 };
	struct detach d = { .argsz = 7 };
	unsigned char *m = pages(4 * PAGE);

	bind_to(fd, iommu, &dev);
	ioas = ioas_alloc(iommu);
	other = ioas_alloc(iommu);
	say("attach-null", "%s", answer(ioctl(fd, ATTACH, 0)));
	say("attach-argsz-11", "%s", answer(ioctl(fd, ATTACH, &a)));
	a.argsz = 12;
	a.flags = 2;
	say("attach-unknown-flag", "%s", answer(ioctl(fd, ATTACH, &a)));
	a.flags = 0;
	a.pt_id = 999;
	say("attach-no-such-id", "%s", answer(ioctl(fd, ATTACH, &a)));
	a.pt_id = 0;
	say("attach-id-0", "%s", answer(ioctl(fd, ATTACH, &a)));
	a.pt_id = dev;
	say("attach-to-a-device", "%s", answer(ioctl(fd, ATTACH, &a)));
	say("detach-null", "%s", answer(ioctl(fd, DETACH, 0)));
	say("detach-argsz-7", "%s", answer(ioctl(fd, DETACH, &d)));
	d.argsz = 8;
	d.flags = 2;
	say("detach-unknown-flag", "%s", answer(ioctl(fd, DETACH, &d)));
	say("detach-unattached", "%s", answer(detach_from(fd)));

	say_ranges("ranges-unattached", iommu, ioas);
	pt = ioas;
	say("attach-to-ioas", "%s", answer(attach_to(fd, &pt)));
	automatic = pt;
	say("answers-a-new-id", "%d", pt != ioas && pt != dev && pt != other);
	say_ranges("ranges-attached", iommu, ioas);
	say("map-in-the-msi-window", "%s", answer(ioas_map(iommu, ioas, 0xfee00000, m, PAGE)));
	say("map-beside-it", "%s", answer(ioas_map(iommu, ioas, 0xfef00000, m, PAGE)));
	say("destroy-automatic", "%s", answer(destroy(iommu, automatic)));
	say("destroy-ioas", "%s", answer(destroy(iommu, ioas)));
	say("destroy-device", "%s", answer(destroy(iommu, dev)));
	pt = ioas;
	say("attach-to-the-same", "%s", answer(attach_to(fd, &pt)));
	say("same-page-table", "%s", same(pt == automatic));
	pt = automatic;
	say("attach-to-the-page-table-itself", "%s", answer(attach_to(fd, &pt)));

	pt = other;
	say("replace-by-another-ioas", "%s", answer(attach_to(fd, &pt)));
	second = pt;
	say("old-automatic-is-gone", "%s", answer(destroy(iommu, automatic)));
	say_ranges("ranges-left", iommu, ioas);
	say_ranges("ranges-entered", iommu, other);
	say("map-in-the-window-of-the-left", "%s", answer(ioas_map(iommu, ioas, 0xfee00000, m, PAGE)));
	pt = ioas;
	say("replace-where-the-window-is-mapped", "%s", answer(attach_to(fd, &pt)));
	say("still-attached-to", "%s", answer(destroy(iommu, second)));
	say("hwpt-where-the-window-is-mapped", "%s", answer(hwpt_alloc(iommu, dev, ioas, 0, &hwpt)));
	pt = hwpt;
	say("replace-by-that-hwpt", "%s", answer(attach_to(fd, &pt)));
	say("unmap-the-window", "%s", answer(ioas_unmap(iommu, ioas, 0xfee00000, PAGE, NULL)));
	pt = hwpt;
	say("replace-by-it-now", "%s", answer(attach_to(fd, &pt)));
	say("answers-its-id", "%s", same(pt == hwpt));
	say("second-automatic-is-gone", "%s", answer(destroy(iommu, second)));
	say("destroy-attached-hwpt", "%s", answer(destroy(iommu, hwpt)));
	say("detach", "%s", answer(detach_from(fd)));
	say_ranges("ranges-detached", iommu, ioas);
	pt = ioas;
	say("attach-never-takes-a-made-one", "%s", answer(attach_to(fd, &pt)));
	say("it-is", "%s", same(pt == hwpt));
	say("detach-again", "%s", answer(detach_from(fd)));
	say("automatic-goes-with-detach", "%s", answer(destroy(iommu, pt)));
	say("destroy-detached-hwpt", "%s", answer(destroy(iommu, hwpt)));
	say("destroy-ioas-at-last", "%s", answer(destroy(iommu, ioas)));

	pt = other;
	say("attach-and-close", "%s", answer(attach_to(fd, &pt)));
	close(fd);
	say("close-detaches", "%s", answer(destroy(iommu, pt)));
	say("device-object-is-gone", "%s", answer(destroy(iommu, dev)));
	say("destroy-other-ioas", "%s", answer(destroy(iommu, other)));
	close(iommu);
	munmap(m, 4 * PAGE);
}

/* The answer is written last: an argument that cannot be written undoes the attachment. */
static void read_only_argument(const char *bdf)
{
	int iommu = open_iommu();
	uint32_t dev, ioas = ioas_alloc(iommu);
	int fd = open_node(bdf);
	struct bind *b = pages(PAGE);
	struct attach *a = (void *)b;

	b->argsz = 16;
	b->iommufd = iommu;
	mprotect(b, PAGE, PROT_READ);
	say("bind", "%s", answer(ioctl(fd, BIND, b)));
	say("get-info-after", "%s", answer(get_info(fd)));
	say("bind-after", "%s", answer(bind_to(fd, iommu, &dev)));
	mprotect(b, PAGE, PROT_READ | PROT_WRITE);
	a->argsz = 12;
	a->flags = 0;
	a->pt_id = ioas;
	mprotect(b, PAGE, PROT_READ);
	say("attach", "%s", answer(ioctl(fd, ATTACH, a)));
	say("ioas-is-free-after", "%s", answer(destroy(iommu, ioas)));
	close(fd);
	close(iommu);
	munmap(b, PAGE);
}

static void pasid(const char *bdf)
{
	int iommu = open_iommu();
	uint32_t dev, ioas = ioas_alloc(iommu), plain, compatible = 0, pt;
	int fd = open_bound(bdf, iommu, &dev), made;
	struct attach a = { .argsz = 12, .flags = 1, .pt_id = ioas, .pasid = 1 };
	struct detach d = { .argsz = 8, .flags = 1, .pasid = 1 };

	say("attach-argsz-12", "%s", answer(ioctl(fd, ATTACH, &a)));
	a.argsz = 16;
	say("attach-to-ioas", "%s", answer(ioctl(fd, ATTACH, &a)));
	say("hwpt-without-pasid", "%s", answer(hwpt_alloc(iommu, dev, ioas, 0, &plain)));
	a.pt_id = plain;
	say("attach-to-hwpt-without-pasid", "%s", answer(ioctl(fd, ATTACH, &a)));
	made = hwpt_alloc(iommu, dev, ioas, 8, &compatible);
	say("hwpt-with-pasid", "%s", answer(made));
	if (!made) {
		a.pt_id = compatible;
		say("attach", "%s", answer(ioctl(fd, ATTACH, &a)));
		say("destroy-attached", "%s", answer(destroy(iommu, compatible)));
		a.pt_id = plain;
		say("replace-by-plain", "%s", answer(ioctl(fd, ATTACH, &a)));
		pt = plain;
		say("attach-device-to-plain", "%s", answer(attach_to(fd, &pt)));
		pt = compatible;
		say("attach-device-to-it", "%s", answer(attach_to(fd, &pt)));
	}
	a.pt_id = made ? plain : compatible;
	a.pasid = 1u << 31;
	say("attach-pasid-too-large", "%s", answer(ioctl(fd, ATTACH, &a)));
	a.pasid = 1u << 20;
	say("attach-pasid-beyond-20-bits", "%s", answer(ioctl(fd, ATTACH, &a)));
	say("detach-argsz-8", "%s", answer(ioctl(fd, DETACH, &d)));
	d.argsz = 12;
	say("detach", "%s", answer(ioctl(fd, DETACH, &d)));
	d.pasid = 5;
	say("detach-unattached", "%s", answer(ioctl(fd, DETACH, &d)));
	close(fd);
	say("plain-is-free-after-close", "%s", answer(destroy(iommu, plain)));
	if (!made)
		say("other-is-free-after-close", "%s", answer(destroy(iommu, compatible)));
	close(iommu);
}

static void one_group(void)
{
	const char *bdfs[2] = { device("MF0"), device("MF1") };
	int iommu = open_iommu(), second = open_iommu(), fds[2] = { open_node(bdfs[0]), open_node(bdfs[1]) };
	uint32_t devs[2], ioas = ioas_alloc(iommu), other = ioas_alloc(iommu), pts[2], hwpt;

	say("bind-first", "%s", answer(bind_to(fds[0], iommu, &devs[0])));
	say("bind-other-to-another-iommufd", "%s", answer(bind_to(fds[1], second, NULL)));
	say("open-group", "%s", tried(open_group(bdfs[1])));
	say("bind-other", "%s", answer(bind_to(fds[1], iommu, &devs[1])));
	pts[0] = ioas;
	say("attach-first", "%s", answer(attach_to(fds[0], &pts[0])));
	pts[1] = other;
	say("attach-other-elsewhere", "%s", answer(attach_to(fds[1], &pts[1])));
	say("hwpt-of-other", "%s", answer(hwpt_alloc(iommu, devs[1], ioas, 0, &hwpt)));
	pts[1] = hwpt;
	say("attach-other-to-another-hwpt", "%s", answer(attach_to(fds[1], &pts[1])));
	pts[1] = ioas;
	say("attach-other-to-the-same", "%s", answer(attach_to(fds[1], &pts[1])));
	say("same-page-table", "%s", same(pts[0] == pts[1]));
	pts[1] = hwpt;
	say("replace-moves-both", "%s", answer(attach_to(fds[1], &pts[1])));
	say("old-is-gone", "%s", answer(destroy(iommu, pts[0])));
	say("detach-the-one-that-moved", "%s", answer(detach_from(fds[1])));
	say("hwpt-still-used-by-first", "%s", answer(destroy(iommu, hwpt)));
	say("detach-first", "%s", answer(detach_from(fds[0])));
	say("hwpt-is-free", "%s", answer(destroy(iommu, hwpt)));
	close(fds[0]);
	say("group-while-other-is-bound", "%s", tried(open_group(bdfs[0])));
	fds[0] = open_node(bdfs[0]);
	say("first-to-another-iommufd", "%s", answer(bind_to(fds[0], second, NULL)));
	close(fds[1]);
	say("and-when-other-is-closed", "%s", answer(bind_to(fds[0], second, NULL)));
	close(fds[0]);
	close(iommu);
	close(second);
}

static void against_the_group(const char *bdf)
{
	int group = open_group(bdf), iommu = open_iommu(), fd = open_node(bdf);
	struct bind b = { .argsz = 16, .iommufd = iommu };
	struct door door;

	say("open-node-while-group-is-open", "%s", opened(fd));
	say("bind-while-group-is-open", "%s", answer(bind_to(fd, iommu, NULL)));
	close(group);
	say("bind-after-group-closed", "%s", answer(bind_to(fd, iommu, NULL)));
	close(fd);
	door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	say("bind-a-device-of-a-group", "%s", answer(ioctl(door.device, BIND, &b)));
	say("bind-null-a-device-of-a-group", "%s", answer(ioctl(door.device, BIND, 0)));
	say("attach-a-device-of-a-group", "%s", answer(detach_from(door.device)));
	close_door(&door);
	close(iommu);
}

int main(void)
{
	static const char *const roles[] = { "NVME", "EDU" };

	for (unsigned i = 0; i < COUNT(roles); i++) {
		const char *bdf = device(roles[i]);
#define PART(f) (snprintf(prefix, sizeof(prefix), "%s/" #f "/", roles[i]), f(bdf))
		PART(node);
		PART(unbound);
		PART(binding);
		PART(attaching);
		PART(read_only_argument);
		PART(pasid);
		PART(against_the_group);
	}
	snprintf(prefix, sizeof(prefix), "one_group/");
	one_group();
	return 0;
}
