/*
 * Groups: exclusive ownership, status, joining and leaving containers, device descriptors, and what outlives what.
 */
#include "client.h"

static struct vfio_group_status status_of(int g, uint32_t argsz, int *ret)
{
	struct vfio_group_status s = { .argsz = argsz };

	*ret = ioctl(g, VFIO_GROUP_GET_STATUS, &s);
	return s;
}

static void status(const char *name, int g)
{
	int ret;
	struct vfio_group_status s = status_of(g, sizeof(s), &ret);

	if (ret)
		say(name, "%s", answer(ret));
	else
		say(name, "0, argsz %u flags %#x", s.argsz, s.flags);
}

static void status_sizes(int g)
{
	static const uint32_t sizes[] = { 0, 4, 7, 8, 9, 64, 0xffffffff };
	char name[64];

	for (unsigned i = 0; i < COUNT(sizes); i++) {
		int ret;
		struct vfio_group_status s = status_of(g, sizes[i], &ret);

		snprintf(name, sizeof(name), "status-argsz-%u", sizes[i]);
		say(name, "%s, argsz %u flags %#x", answer(ret), s.argsz, s.flags);
	}
	say("status-null", "%s", answer(ioctl(g, VFIO_GROUP_GET_STATUS, NULL)));
}

static void opening(void)
{
	const char *bdf = device("NVME");
	char path[64];
	struct stat st;
	int g = open_group(bdf), again;

	say("open", "%s", opened(g));
	say("open-twice", "%s", opened(again = open_group(bdf)));
	fstat(g, &st);
	say("fstat", "%s", S_ISCHR(st.st_mode) ? "character device" : "something else");
	close(g);
	say("open-after-close", "%s", opened(g = open_group(bdf)));
	again = dup(g);
	close(g);
	say("open-while-duplicate-is-open", "%s", tried(open_group(bdf)));
	close(again);
	snprintf(path, sizeof(path), "/dev/vfio/%d", 4000);
	say("open-no-such-group", "%s", tried(open(path, O_RDWR)));
	snprintf(path, sizeof(path), "/dev/vfio/%d", group_number(bdf));
	g = open(path, O_RDONLY);
	say("open-read-only", "%s", opened(g));
	status("read-only-status", g);
	close(g);
}

static void fresh(void)
{
	static const unsigned numbers[] = { 0, 99, 100, 101, 102, 107, 108, 110, 111, 112, 113, 114, 255 };
	int g = open_group(device("NVME")), other = open_group(device("EDU")), null = open("/dev/null", O_RDWR), fd;
	char name[64], buf[8];

	status("fresh-status", g);
	status_sizes(g);
	for (unsigned i = 0; i < COUNT(numbers); i++) {
		snprintf(name, sizeof(name), "fresh-command-%u", numbers[i]);
		say(name, "%s", answer(ioctl(g, _IO(VFIO_TYPE, numbers[i]), NULL)));
	}
	say("fresh-read", "%s", answer(read(g, buf, sizeof(buf))));
	say("fresh-write", "%s", answer(write(g, buf, sizeof(buf))));
	say("fresh-mmap", "%s", mmap(NULL, PAGE, PROT_READ, MAP_SHARED, g, 0) == MAP_FAILED ? answer(-1) : "mapped");
	say("fresh-unset-container", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	say("fresh-get-device", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, device("NVME"))));
	say("set-container-null", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, NULL)));
	fd = -1;
	say("set-container-minus-one", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &fd)));
	fd = 9999;
	say("set-container-closed", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &fd)));
	say("set-container-dev-null", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &null)));
	say("set-container-itself", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &g)));
	say("set-container-other-group", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &other)));
	status("status-after-refusals", g);
	close(g);
	close(other);
	close(null);
}

static void in_a_container(void)
{
	const char *bdf = device("NVME");
	int g = open_group(bdf), c = open_container(), c2 = open_container(), d, d2;
	char token[128];

	say("set-container", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c)));
	status("joined-status", g);
	say("set-container-twice", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c)));
	say("set-another-container", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c2)));
	say("get-device-before-set-iommu", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, bdf)));
	say("set-iommu", "%s", answer(ioctl(c, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)));
	status("status-with-iommu", g);
	say("get-device-null", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, NULL)));
	say("get-device-empty", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, "")));
	say("get-device-wrong", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, "0000:7f:1f.7")));
	say("get-device-of-other-group", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, device("EDU"))));
	snprintf(token, sizeof(token), "%s ", bdf);
	say("get-device-trailing-blank", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, token)));
	snprintf(token, sizeof(token), "%sx", bdf);
	say("get-device-trailing-letter", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, token)));
	say("get-device-without-domain", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, bdf + 5)));
	snprintf(token, sizeof(token), "%s vf_token=00112233-4455-6677-8899-aabbccddeeff", bdf);
	say("get-device-with-vf-token", "%s", tried(ioctl(g, VFIO_GROUP_GET_DEVICE_FD, token)));
	say("get-device", "%s", opened(d = ioctl(g, VFIO_GROUP_GET_DEVICE_FD, bdf)));
	say("get-device-twice", "%s", opened(d2 = ioctl(g, VFIO_GROUP_GET_DEVICE_FD, bdf)));
	say("device-is-close-on-exec", "%s", answer(fcntl(d, F_GETFD)));
	say("device-access-mode", "%#x", fcntl(d, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	say("unset-container-with-device-open", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	close(d);
	say("unset-container-with-second-open", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	close(d2);
	say("unset-container", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	status("left-status", g);
	say("unset-container-twice", "%s", answer(ioctl(g, VFIO_GROUP_UNSET_CONTAINER)));
	say("join-the-other", "%s", answer(ioctl(g, VFIO_GROUP_SET_CONTAINER, &c2)));
	close(g);
	close(c);
	close(c2);
}

/* Which descriptor keeps what alive. */
static void closing(void)
{
	const char *bdf = device("NVME");
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct door d = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	char *m = pages(PAGE);
	int c2;

	close(d.group);
	say("device-after-group-closed", "%s", answer(ioctl(d.device, VFIO_DEVICE_GET_INFO, &info)));
	say("open-group-while-device-open", "%s", tried(open_group(bdf)));
	say("map-after-group-closed", "%s", answer(map(d.container, MIB(1), m, PAGE, READ)));
	close(d.device);
	say("map-after-device-closed", "%s", answer(map(d.container, MIB(2), m, PAGE, READ)));
	say("open-group-after-device-closed", "%s", opened(d.group = open_group(bdf)));
	close(d.group);
	close(d.container);

	d = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	close(d.container);
	say("device-after-container-closed", "%s", answer(ioctl(d.device, VFIO_DEVICE_GET_INFO, &info)));
	status("status-after-container-closed", d.group);
	c2 = open_container();
	say("join-another-after-container-closed", "%s", answer(ioctl(d.group, VFIO_GROUP_SET_CONTAINER, &c2)));
	say("get-device-after-container-closed", "%s", opened(ioctl(d.group, VFIO_GROUP_GET_DEVICE_FD, bdf)));
	close(c2);
	close(d.device);
	close(d.group);
	/* The second descriptor of above is still open. */
	say("open-group-while-second-device-open", "%s", tried(open_group(bdf)));
}

/* A group of two functions: one status, two devices, one owner. */
static void several_functions(void)
{
	const char *a = device("MF0"), *b = device("MF1");
	struct door d = open_door(a, VFIO_TYPE1v2_IOMMU);
	int da, db;

	say("two-functions-one-group", "%s", group_number(a) == group_number(b) ? "yes" : "no");
	status("two-functions-status", d.group);
	say("get-first-function", "%s", opened(da = ioctl(d.group, VFIO_GROUP_GET_DEVICE_FD, a)));
	say("get-second-function", "%s", opened(db = ioctl(d.group, VFIO_GROUP_GET_DEVICE_FD, b)));
	say("open-group-by-second", "%s", tried(open_group(b)));
	close(da);
	say("unset-with-second-open", "%s", answer(ioctl(d.group, VFIO_GROUP_UNSET_CONTAINER)));
	close(db);
	close_door(&d);
	d = open_door(device("BR0"), VFIO_TYPE1_IOMMU);
	say("behind-bridge-one-group", "%s", group_number(device("BR0")) == group_number(device("BR1")) ? "yes" : "no");
	status("behind-bridge-status", d.group);
	say("get-first-behind-bridge", "%s", opened(da = ioctl(d.group, VFIO_GROUP_GET_DEVICE_FD, device("BR0"))));
	say("get-second-behind-bridge", "%s", opened(db = ioctl(d.group, VFIO_GROUP_GET_DEVICE_FD, device("BR1"))));
	close(da);
	close(db);
	close_door(&d);
}

int main(void)
{
	opening();
	fresh();
	in_a_container();
	several_functions();
	closing();
	return 0;
}
