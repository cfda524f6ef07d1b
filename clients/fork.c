/*
 * Files that several processes have: a child of fork uses what it inherited, maps its own memory and dies; a process is
 * given descriptors over a socket; a program starts with them open. What was pinned outlives the process that mapped
 * it, private memory stays private to each, and a file is open until the last process has closed it.
 */
#include "edu.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define IOVA MIB(1)
#define CHILD_IOVA MIB(2)

static struct door door;

static void fill(unsigned char *p, unsigned seed)
{
	for (unsigned i = 0; i < PAGE; i++)
		p[i] = (i * 7 + seed) ^ (i >> 8);
}

static int is_filled(const unsigned char *p, unsigned seed)
{
	for (unsigned i = 0; i < PAGE; i++)
		if (p[i] != (unsigned char)((i * 7 + seed) ^ (i >> 8)))
			return 0;
	return 1;
}

static const char *yes(int v)
{
	return v ? "yes" : "no";
}

/* Runs `work` in a child and waits for its end: the exit status, or the signal that ended it plus 128. */
static int in_child(void (*work)(void))
{
	pid_t child = fork();
	int status;

	if (child < 0)
		die("fork");
	if (!child) {
		work();
		fflush(stdout);
		_exit(0);
	}
	if (waitpid(child, &status, 0) != child)
		die("waitpid");
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* What the device reads at an address, brought back through memory of the parent. */
static int device_reads(uint64_t iova, unsigned seed)
{
	static unsigned char *m;

	if (!m) {
		m = pages(PAGE);
		if (map(door.container, MIB(64), m, PAGE, READ | WRITE))
			die("map");
	}
	memset(m, 0xee, PAGE);
	if (edu_from_memory(iova, 0, PAGE) || edu_to_memory(MIB(64), 0, PAGE))
		return -1;
	return is_filled(m, seed);
}

/* The device's buffer gets a pattern by way of the parent's memory, and is written to an address. */
static void device_writes(uint64_t iova, unsigned seed)
{
	unsigned char *m = pages(PAGE);

	fill(m, seed);
	if (map(door.container, MIB(65), m, PAGE, READ))
		die("map");
	if (edu_from_memory(MIB(65), 0, PAGE) || edu_to_memory(iova, 0, PAGE))
		die("edu");
	if (unmap(door.container, MIB(65), PAGE, NULL))
		die("unmap");
	munmap(m, PAGE);
}

static void show_status(const char *name, int group)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	int ret = ioctl(group, VFIO_GROUP_GET_STATUS, &status);

	say(name, "%s %#x", answer(ret), status.flags);
}

static void ask(void)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_irq_info irq = { .argsz = sizeof(irq), .index = VFIO_PCI_MSI_IRQ_INDEX };
	uint64_t config = region(door.device, VFIO_PCI_CONFIG_REGION_INDEX).offset;
	void *volatile nowhere = (void *)8;
	uint16_t id[2] = { 0, 0 };
	struct stat st;

	say("child-version", "%s", answer(ioctl(door.container, VFIO_GET_API_VERSION)));
	say("child-extension", "%s", answer(ioctl(door.container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU)));
	show_status("child-status", door.group);
	say("child-info", "%s", answer(ioctl(door.device, VFIO_DEVICE_GET_INFO, &info)));
	say("child-info-regions", "%u", info.num_regions);
	say("child-irq-info", "%s", answer(ioctl(door.device, VFIO_DEVICE_GET_IRQ_INFO, &irq)));
	say("child-irqs-count", "%u", irq.count);
	say("child-config", "%s", answer(pread(door.device, id, 4, config)));
	say("child-id", "%04x:%04x", id[0], id[1]);
	say("child-bad-pointer", "%s", answer(ioctl(door.device, VFIO_DEVICE_GET_INFO, nowhere)));
	say("child-bad-buffer", "%s", answer(pread(door.device, nowhere, 4, config)));
	say("child-bad-command", "%s", answer(ioctl(door.device, VFIO_GET_API_VERSION + 90)));
	say("child-device", "%s", yes(!fstat(door.container, &st) && S_ISCHR(st.st_mode)));
}

static void registers(void)
{
	struct vfio_region_info r = region(door.device, 0);
	volatile uint32_t *mine = mmap(NULL, r.size, PROT_READ | PROT_WRITE, MAP_SHARED, door.device, r.offset);

	say("inherited-mapping", "%#llx", (unsigned long long)*(volatile uint32_t *)(edu_bar + 4));
	*(volatile uint32_t *)(edu_bar + 4) = 0x12345678;
	say("inherited-inverted", "%#x", *(volatile uint32_t *)(edu_bar + 4));
	say("child-mmap", "%s", yes(mine != MAP_FAILED));
	say("child-mapping", "%#x", mine[1]);
	mine[1] = 0x0f0f0f0f;
}

/* The child's own memory. */
static void map_and_exit(void)
{
	unsigned char *m = pages(4 * PAGE);

	fill(m + PAGE, 3);
	say("child-map", "%s", answer(map(door.container, CHILD_IOVA, m + PAGE, PAGE, READ | WRITE)));
	say("child-map-again", "%s", answer(map(door.container, CHILD_IOVA, m, PAGE, READ)));
	say("child-map-hole", "%s", answer(map(door.container, CHILD_IOVA + MIB(1), (void *)(uintptr_t)MIB(2), PAGE, READ)));
	fill(m + PAGE, 4);
}

static int ready[2], go[2];

static void tell(int *pipe_)
{
	if (write(pipe_[1], "x", 1) != 1)
		die("pipe");
}

static void wait_for(int *pipe_)
{
	char c;

	if (read(pipe_[0], &c, 1) != 1)
		die("pipe");
}

static unsigned char *common;

/* Both ways while the child lives, whose stack and heap are mapped too. */
static void live(void)
{
	unsigned char *m = pages(PAGE), *heap = malloc(64 * PAGE), stack[3 * PAGE];
	unsigned char *in_heap = (void *)(((uintptr_t)heap + PAGE) & -PAGE);
	unsigned char *in_stack = (void *)(((uintptr_t)stack + PAGE - 1) & -PAGE);

	fill(m, 10);
	fill(in_heap, 11);
	fill(in_stack, 12);
	say("live-map", "%s", answer(map(door.container, CHILD_IOVA, m, PAGE, READ | WRITE)));
	say("live-map-heap", "%s", answer(map(door.container, CHILD_IOVA + PAGE, in_heap, PAGE, READ | WRITE)));
	say("live-map-stack", "%s", answer(map(door.container, CHILD_IOVA + 2 * PAGE, in_stack, PAGE, READ | WRITE)));
	say("live-map-shared", "%s", answer(map(door.container, CHILD_IOVA + 3 * PAGE, common, PAGE, READ | WRITE)));
	fill(m, 20);
	fill(in_heap, 21);
	fill(in_stack, 22);
	tell(ready);
	wait_for(go);
	say("child-sees", "%s %s %s", yes(is_filled(m, 30)), yes(is_filled(in_heap, 31)), yes(is_filled(in_stack, 32)));
	madvise(m, PAGE, MADV_DONTNEED);
	say("child-discarded", "%u", m[0]);
	free(heap);
	fflush(stdout);
	_exit(0);
}

static void both_ways(void)
{
	pid_t child = fork();
	int status;

	if (!child)
		live();
	wait_for(ready);
	say("device-sees", "%s %s %s", yes(device_reads(CHILD_IOVA, 20)), yes(device_reads(CHILD_IOVA + PAGE, 21)),
	    yes(device_reads(CHILD_IOVA + 2 * PAGE, 22)));
	for (unsigned i = 0; i < 3; i++)
		device_writes(CHILD_IOVA + i * PAGE, 30 + i);
	device_writes(CHILD_IOVA + 3 * PAGE, 33);
	tell(go);
	waitpid(child, &status, 0);
	say("child-ended", "%d", status);
	say("shared-memory", "%s", yes(is_filled(common, 33)));
	say("still-sees", "%s %s %s", yes(device_reads(CHILD_IOVA, 30)), yes(device_reads(CHILD_IOVA + PAGE, 31)),
	    yes(device_reads(CHILD_IOVA + 2 * PAGE, 32)));
	say("parent-unmaps", "%s", answer(unmap(door.container, CHILD_IOVA, 4 * PAGE, NULL)));
}

static unsigned char *private;

/* Memory that both have, private: each sees its own, the device what was mapped by whom. */
static void own_copy(void)
{
	fill(private, 41);
	say("copy-map", "%s", answer(map(door.container, CHILD_IOVA, private, PAGE, READ | WRITE)));
	fill(private, 42);
	if (!fork()) {
		/* a grandchild's stores are its own */
		say("grandchild-sees", "%s", yes(is_filled(private, 42)));
		fill(private, 43);
		say("grandchild-maps", "%s", answer(map(door.container, CHILD_IOVA + PAGE, private, PAGE, READ)));
		fflush(stdout);
		_exit(0);
	}
	wait(NULL);
	say("child-keeps", "%s", yes(is_filled(private, 42)));
}

static void copies(void)
{
	private = pages(PAGE);
	fill(private, 40);
	say("private-map", "%s", answer(map(door.container, IOVA, private, PAGE, READ | WRITE)));
	in_child(own_copy);
	say("three-copies", "%s %s %s", yes(device_reads(IOVA, 40)), yes(device_reads(CHILD_IOVA, 42)),
	    yes(device_reads(CHILD_IOVA + PAGE, 43)));
	say("parent-keeps", "%s", yes(is_filled(private, 40)));
	unmap(door.container, IOVA, PAGE, NULL);
	unmap(door.container, CHILD_IOVA, 2 * PAGE, NULL);
	munmap(private, PAGE);
}

static void die_mapped(void)
{
	unsigned char *m = pages(PAGE);

	fill(m, 50);
	map(door.container, CHILD_IOVA, m, PAGE, READ | WRITE);
	raise(SIGKILL);
}

static void close_all(void)
{
	say("child-closes", "%s %s %s", answer(close(door.device)), answer(close(door.group)), answer(close(door.container)));
	say("child-closed", "%s", answer(ioctl(door.container, VFIO_GET_API_VERSION)));
}

#define EDU_RAISE_INTERRUPT 0x60

static void set_interrupt(void)
{
	struct {
		struct vfio_irq_set set;
		int fd;
	} s = {
		.set = { .argsz = sizeof(s), .index = VFIO_PCI_MSI_IRQ_INDEX, .count = 1,
			 .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER },
	};
	uint64_t count = 0;

	s.fd = eventfd(0, EFD_NONBLOCK);
	/* Another number than any the parent has. */
	s.fd = dup2(s.fd, 77);
	say("child-irqs", "%s", answer(ioctl(door.device, VFIO_DEVICE_SET_IRQS, &s)));
	*(volatile uint32_t *)(edu_bar + EDU_RAISE_INTERRUPT) = 1;
	poll(&(struct pollfd){ .fd = s.fd, .events = POLLIN }, 1, 5000);
	if (read(s.fd, &count, sizeof(count)) < 0)
		count = 0;
	say("child-interrupted", "%llu", (unsigned long long)count);
	s.fd = 78;
	say("child-irqs-closed", "%s", answer(ioctl(door.device, VFIO_DEVICE_SET_IRQS, &s)));
}

#define MANY 12

/* Many at once, each with a page of its own that it leaves behind. */
static void many(void)
{
	unsigned good = 0;

	for (unsigned i = 0; i < MANY; i++)
		if (!fork()) {
			unsigned char *m = pages(PAGE);

			fill(m, 100 + i);
			_exit(map(door.container, CHILD_IOVA + i * PAGE, m, PAGE, READ) != 0);
		}
	for (unsigned i = 0; i < MANY; i++) {
		int status;

		wait(&status);
		good += !status;
	}
	say("many-mapped", "%u", good);
	good = 0;
	for (unsigned i = 0; i < MANY; i += 5)
		good += device_reads(CHILD_IOVA + i * PAGE, 100 + i) == 1;
	say("many-seen", "%u", good);
	say("many-unmap", "%s", answer(unmap(door.container, CHILD_IOVA, MANY * PAGE, NULL)));
}

static void send_fds(int to, const int *fds, unsigned count)
{
	char control[CMSG_SPACE(sizeof(int) * 3)] = { 0 }, byte = 0;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
			    .msg_controllen = CMSG_SPACE(sizeof(int) * count) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * count);
	if (sendmsg(to, &m, 0) != 1)
		die("sendmsg");
}

static void receive_fds(int from, int *fds, unsigned count)
{
	char control[CMSG_SPACE(sizeof(int) * 3)], byte;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };

	if (recvmsg(from, &m, 0) != 1 || !CMSG_FIRSTHDR(&m))
		die("recvmsg");
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int) * count);
}

/* A process that was there before the files were opened. */
static void receiver(int from)
{
	unsigned char *m = pages(PAGE);
	int fds[3];
	char c;

	receive_fds(from, fds, 3);
	fill(m, 60);
	say("received-version", "%s", answer(ioctl(fds[0], VFIO_GET_API_VERSION)));
	show_status("received-status", fds[1]);
	say("received-map", "%s", answer(map(fds[0], CHILD_IOVA, m, PAGE, READ | WRITE)));
	fill(m, 61);
	if (write(from, "x", 1) != 1 || read(from, &c, 1) != 1)
		die("socket");
	say("received-sees", "%s", yes(is_filled(m, 62)));
	fflush(stdout);
	_exit(0);
}

static void given(int to)
{
	int fds[3] = { door.container, door.group, door.device };
	char c;

	send_fds(to, fds, 3);
	if (read(to, &c, 1) != 1)
		die("socket");
	say("given-sees", "%s", yes(device_reads(CHILD_IOVA, 61)));
	device_writes(CHILD_IOVA, 62);
	if (write(to, "x", 1) != 1)
		die("socket");
	wait(NULL);
	say("given-still", "%s", yes(device_reads(CHILD_IOVA, 62)));
	unmap(door.container, CHILD_IOVA, PAGE, NULL);
}

static char *self;

/* A new program with the descriptors open. */
static void start_program(void)
{
	char container[12], group[12];

	fcntl(door.container, F_SETFD, 0);
	fcntl(door.group, F_SETFD, 0);
	snprintf(container, sizeof(container), "%d", door.container);
	snprintf(group, sizeof(group), "%d", door.group);
	execl(self, self, container, group, (char *)NULL);
	die("exec");
}

static int program(int container, int group)
{
	unsigned char *m = pages(PAGE);

	fill(m, 70);
	say("program-version", "%s", answer(ioctl(container, VFIO_GET_API_VERSION)));
	show_status("program-status", group);
	say("program-map", "%s", answer(map(container, CHILD_IOVA, m, PAGE, READ)));
	return 0;
}

/* The last process to have a file is the one that closes it. */
static void last_close(void)
{
	pid_t child = fork();

	if (!child) {
		/* What the parent closes stays open here. */
		wait_for(go);
		show_status("kept-status", door.group);
		say("kept-registers", "%#llx", (unsigned long long)*(volatile uint32_t *)edu_bar);
		fflush(stdout);
		tell(ready);
		wait_for(go);
		_exit(0);
	}
	munmap((void *)edu_bar, MIB(1));
	close_door(&door);
	tell(go);
	wait_for(ready);
	say("kept-busy", "%s", tried(open_group(device("EDU"))));
	tell(go);
	waitpid(child, NULL, 0);
	say("free-again", "%s", tried(open_group(device("EDU"))));
}

int main(int argc, char **argv)
{
	int sockets[2];

	self = argv[0];
	if (argc == 3)
		return program(atoi(argv[1]), atoi(argv[2]));
	if (pipe(ready) || pipe(go) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		die("pipe");
	if (!fork())
		receiver(sockets[0]);
	common = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	door = open_device(device("EDU"), VFIO_TYPE1v2_IOMMU);
	edu_open(&door);
	in_child(ask);
	in_child(registers);
	say("parent-reads", "%#x", *(volatile uint32_t *)(edu_bar + 4));
	in_child(map_and_exit);
	say("pinned-of-the-dead", "%s", yes(device_reads(CHILD_IOVA, 4)));
	say("parent-unmap", "%s", answer(unmap(door.container, CHILD_IOVA, PAGE, NULL)));
	both_ways();
	copies();
	say("killed", "%d", in_child(die_mapped));
	say("pinned-of-the-killed", "%s", yes(device_reads(CHILD_IOVA, 50)));
	unmap(door.container, CHILD_IOVA, PAGE, NULL);
	in_child(close_all);
	say("after-child-closed", "%s", answer(ioctl(door.container, VFIO_GET_API_VERSION)));
	in_child(set_interrupt);
	many();
	given(sockets[1]);
	in_child(start_program);
	say("pinned-of-the-program", "%s", yes(device_reads(CHILD_IOVA, 70)));
	unmap(door.container, CHILD_IOVA, PAGE, NULL);
	last_close();
	return 0;
}
