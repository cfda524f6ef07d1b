/*
 * Files that one process opens for another: a program that opens and becomes another by exec, an opener that ends, one
 * that sends what it opened over a socket, and programs that are started by vfork and posix_spawn with descriptors open.
 */
#include "iommufd.h"

#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

extern char **environ;
static const char *self;

static const char *yes(int v)
{
	return v ? "yes" : "no";
}

static int kept(int fd)
{
	if (fd < 0)
		die("open");
	fcntl(fd, F_SETFD, 0);
	return fd;
}

/* The descriptors as arguments of a program. */
static char **words(const char *what, int a, int b)
{
	static char first[12], second[12];
	static char *list[5];

	snprintf(first, sizeof(first), "%d", a);
	snprintf(second, sizeof(second), "%d", b);
	list[0] = (char *)self;
	list[1] = (char *)what;
	list[2] = first;
	list[3] = second;
	return list;
}

static void become(const char *what, int a, int b)
{
	execv(self, words(what, a, b));
	die("exec");
}

static void await(pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) != child)
		die("waitpid");
	if (status)
		say("ended", "%#x", status);
}

/* The group interface, from an unused container and group. */
static void use_group(int container, int group)
{
	struct vfio_group_status status = { .argsz = sizeof(status) };
	void *memory = pages(PAGE);
	int device_fd, ret;

	say("group-version", "%s", answer(ioctl(container, VFIO_GET_API_VERSION)));
	ret = ioctl(group, VFIO_GROUP_GET_STATUS, &status);
	say("group-status", "%s %#x", answer(ret), status.flags);
	say("group-busy", "%s", tried(open_group(device("EDU"))));
	say("group-set-container", "%s", answer(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container)));
	say("group-set-iommu", "%s", answer(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)));
	say("group-map", "%s", answer(map(container, MIB(1), memory, PAGE, READ)));
	device_fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, device("EDU"));
	say("group-device", "%s", opened(device_fd));
	close(device_fd);
}

/* The device's node, from an unused descriptor and an unused /dev/iommu. */
static void use_node(int iommu, int node)
{
	uint32_t id, ioas = 0;
	struct stat st;
	void *memory = pages(PAGE);
	struct vfio_device_info info = { .argsz = sizeof(info) };
	volatile uint32_t *registers;

	say("node-is-device", "%s", yes(!fstat(node, &st) && S_ISCHR(st.st_mode)));
	say("node-unbound", "%s", answer(ioctl(node, VFIO_DEVICE_GET_INFO, &info)));
	say("node-bind", "%s", answer(bind_to(node, iommu, &id)));
	ioas = ioas_alloc(iommu);
	say("node-map", "%s", answer(ioas_map(iommu, ioas, MIB(1), memory, PAGE)));
	say("node-attach", "%s", answer(attach_to(node, &ioas)));
	say("node-info", "%s", answer(ioctl(node, VFIO_DEVICE_GET_INFO, &info)));
	registers = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, node, region(node, 0).offset);
	say("node-registers", "%#x", registers == MAP_FAILED ? 0 : registers[2]);
	say("node-again", "%s", answer(bind_to(node, iommu, &id)));
	munmap((void *)registers, PAGE);
}

/* What the program is when it was started with words. */
static int program(const char *what, int a, int b)
{
	if (!strcmp(what, "group"))
		use_group(a, b);
	else if (!strcmp(what, "node"))
		use_node(a, b);
	else if (!strcmp(what, "pass"))
		become("node", a, b);
	else if (!strcmp(what, "used-next")) {
		struct ioas_alloc alloc = {};
		int ret = COMMAND(a, IOAS_ALLOC, &alloc);

		say(what, "%s %u", answer(ret), alloc.out_ioas_id);
	} else
		say(what, "%s", answer(ioctl(a, VFIO_GET_API_VERSION)));
	return 0;
}

/* A process opens and becomes another program. */
static void by_exec(void)
{
	pid_t child = fork();

	if (!child)
		become("group", kept(open_container()), kept(open_group(device("EDU"))));
	await(child);
	child = fork();
	if (!child)
		become("pass", kept(open_iommu()), kept(open_node(device("NVME"))));
	await(child);
}

/* As `by_exec`, of files that something was done with before. */
static void used_by_exec(void)
{
	pid_t child = fork();
	struct door d;
	int iommu;

	if (!child) {
		d = open_door(device("EDU"), VFIO_TYPE1v2_IOMMU);
		become("used-version", kept(d.container), kept(d.group));
	}
	await(child);
	child = fork();
	if (!child) {
		iommu = kept(open_iommu());
		ioas_alloc(iommu);
		become("used-next", iommu, 0);
	}
	await(child);
}

/* What is done by a process whose parent, the opener, has ended. */
static void orphan(void (*work)(int, int), int (*first)(void), int (*second)(void))
{
	int alive[2], over[2];
	char c;
	pid_t child;

	if (pipe(alive) || pipe(over))
		die("pipe");
	child = fork();
	if (!child) {
		int a = first(), b = second();

		if (fork())
			_exit(0);
		close(alive[1]);
		close(over[0]);
		/* The parent's end closes when it has ended. */
		if (read(alive[0], &c, 1))
			die("pipe");
		work(a, b);
		fflush(stdout);
		_exit(0);
	}
	close(alive[1]);
	close(over[1]);
	await(child);
	if (read(over[0], &c, 1))
		die("pipe");
	close(alive[0]);
	close(over[0]);
}

static int the_group(void)
{
	return open_group(device("EDU"));
}

static int the_node(void)
{
	return open_node(device("NVME"));
}

/* Two processes that the opener left behind have one file between them. */
static void share(int iommu, int node)
{
	uint32_t first = ioas_alloc(iommu), id;
	pid_t child;

	say("share-bind", "%s", answer(bind_to(node, iommu, &id)));
	child = fork();
	if (!child) {
		uint32_t second = ioas_alloc(iommu);

		say("share-next", "%u", second - first);
		say("share-bound", "%s", answer(bind_to(node, iommu, &id)));
		say("share-attach", "%s", answer(attach_to(node, &second)));
		fflush(stdout);
		_exit(0);
	}
	await(child);
	say("share-destroy", "%s", answer(destroy(iommu, first)));
}

/* As `share`, between processes that are both of the opener's children. */
static void siblings(int iommu, int node)
{
	int turn[2];
	pid_t child;
	char c;
	uint32_t first;

	(void)node;
	if (pipe(turn))
		die("pipe");
	child = fork();
	if (!child) {
		if (read(turn[0], &c, 1) != 1)
			die("pipe");
		first = ioas_alloc(iommu);
		say("siblings-second", "%u", first);
		fflush(stdout);
		_exit(0);
	}
	first = ioas_alloc(iommu);
	say("siblings-first", "%u", first);
	if (write(turn[1], "x", 1) != 1)
		die("pipe");
	await(child);
	say("siblings-third", "%u", ioas_alloc(iommu) - first);
}

static void send_fds(int to, const int *fds)
{
	char control[CMSG_SPACE(sizeof(int) * 2)] = { 0 }, byte = 0;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * 2);
	memcpy(CMSG_DATA(c), fds, sizeof(int) * 2);
	if (sendmsg(to, &m, 0) != 1)
		die("sendmsg");
}

static void receive_fds(int from, int *fds)
{
	char control[CMSG_SPACE(sizeof(int) * 2)], byte;
	struct iovec io = { &byte, 1 };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };

	if (recvmsg(from, &m, 0) != 1 || !CMSG_FIRSTHDR(&m))
		die("recvmsg");
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int) * 2);
}

/* The opener sends its files; it has closed them, or has them still, or has ended, when they are used. */
static void by_socket(const char *how)
{
	int sockets[2], fds[2];
	pid_t opener;
	char c;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets))
		die("socketpair");
	opener = fork();
	if (!opener) {
		int mine[2] = { open_iommu(), the_node() };

		send_fds(sockets[0], mine);
		if (strcmp(how, "sent-open-")) {
			close(mine[0]);
			close(mine[1]);
		}
		if (write(sockets[0], "x", 1) != 1)
			die("socket");
		if (strcmp(how, "sent-ended-") && read(sockets[0], &c, 1) != 1)
			die("socket");
		_exit(0);
	}
	receive_fds(sockets[1], fds);
	if (read(sockets[1], &c, 1) != 1)
		die("socket");
	if (!strcmp(how, "sent-ended-"))
		await(opener);
	snprintf(prefix, sizeof(prefix), "%s", how);
	use_node(fds[0], fds[1]);
	prefix[0] = 0;
	close(fds[0]);
	close(fds[1]);
	if (strcmp(how, "sent-ended-")) {
		if (write(sockets[1], "x", 1) != 1)
			die("socket");
		await(opener);
	}
	close(sockets[0]);
	close(sockets[1]);
}

struct fault_alloc { uint32_t size, flags, out_fault_id; int32_t out_fault_fd; };

static int queue_alloc(int iommu)
{
	struct fault_alloc a = {};

	if (COMMAND(iommu, FAULT_QUEUE_ALLOC, &a))
		die("FAULT_QUEUE_ALLOC");
	return a.out_fault_fd;
}

static void say_queue(const char *name, int fd)
{
	char group[64];
	ssize_t whole = read(fd, group, sizeof(group));
	const char *first = answer(whole);

	say(name, "%s %s %d", first, answer(read(fd, group, 1)), poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 0));
}

/* Queues of page requests, which have no node: one that the parent has closed, one that a child made. */
static void queues(void)
{
	int iommu = open_iommu(), fd = queue_alloc(iommu), go[2];
	pid_t child;
	char c;

	if (pipe(go))
		die("pipe");
	child = fork();
	if (!child) {
		if (read(go[0], &c, 1) != 1)
			die("pipe");
		say_queue("queue-parent-closed", fd);
		child = fork();
		if (!child) {
			say_queue("queue-grandchild", fd);
			_exit(0);
		}
		await(child);
		close(fd);
		fd = queue_alloc(iommu);
		say_queue("queue-of-child", fd);
		if (!fork()) {
			if (read(go[0], &c, 1) != 1)
				die("pipe");
			say_queue("queue-child-closed", fd);
			_exit(0);
		}
		close(fd);
		if (write(go[1], "x", 1) != 1)
			die("pipe");
		wait(NULL);
		_exit(0);
	}
	close(fd);
	if (write(go[1], "x", 1) != 1)
		die("pipe");
	await(child);
	say("queue-after", "%s", tried(queue_alloc(iommu)));
	close(iommu);
	close(go[0]);
	close(go[1]);
}

/* Programs that are started without fork, by a process that never forked with files open. */
static void started(void)
{
	pid_t child = fork();

	if (!child) {
		int container = kept(open_container());
		char **list = words("vforked-version", container, 0);
		pid_t program = vfork();

		if (!program) {
			execv(self, list);
			_exit(99);
		}
		await(program);
		_exit(0);
	}
	await(child);
	child = fork();
	if (!child) {
		char **list = words("spawned-version", kept(open_container()), 0);
		pid_t program;

		if (posix_spawn(&program, self, NULL, NULL, list, environ))
			die("posix_spawn");
		await(program);
		_exit(0);
	}
	await(child);
}

int main(int argc, char **argv)
{
	self = argv[0];
	if (argc == 4)
		return program(argv[1], atoi(argv[2]), atoi(argv[3]));
	by_exec();
	used_by_exec();
	snprintf(prefix, sizeof(prefix), "orphan-");
	orphan(use_group, open_container, the_group);
	orphan(use_node, open_iommu, the_node);
	orphan(share, open_iommu, the_node);
	orphan(siblings, open_iommu, the_node);
	prefix[0] = 0;
	by_socket("sent-open-");
	by_socket("sent-closed-");
	by_socket("sent-ended-");
	started();
	queues();
	say("group-free", "%s", tried(the_group()));
	say("node-free", "%s", tried(the_node()));
	return 0;
}
