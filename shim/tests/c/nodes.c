/* The toy machine's nodes: every statement that does not hold is printed, and the number of them is the exit status. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define VERSION 0x3b64
#define SET_CONTAINER 0x3b68
#define DEVICE_FD 0x3b6a
#define RESET 0x3b6f

static int wrong;
#define HOLDS(what) do { errno = 0; if (!(what)) { \
	printf("line %d: %s (errno %d)\n", __LINE__, #what, errno); wrong++; } } while (0)
#define FAILS(what, error) do { errno = 0; long failed = (long)(what); if (failed != -1 || errno != (error)) { \
	printf("line %d: %s = %ld errno %d\n", __LINE__, #what, failed, errno); wrong++; } } while (0)

static int container, group, device;
static volatile uintptr_t nowhere = 8;

static void nodes(void)
{
	struct stat st;
	struct statx sx;
	char link[64], name[64];
	DIR *dir = opendir("/dev/vfio");
	for (struct dirent *e; dir && (e = readdir(dir));)
		HOLDS(e->d_name[0] == '.' || e->d_type == DT_CHR);
	closedir(dir);
	HOLDS(stat("/dev/vfio/vfio", &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 196));
	HOLDS((st.st_mode & 0777) == 0666);
	HOLDS(stat("/dev/vfio/1", &st) == 0 && S_ISCHR(st.st_mode) && minor(st.st_rdev) == 1);
	FAILS(stat("/dev/vfio/2", &st), ENOENT);
	FAILS(open("/dev/vfio/2", O_RDWR), ENOENT);
	FAILS(open("/dev/vfio/vfio", O_RDWR | O_DIRECTORY), ENOTDIR);
	FAILS(open("/dev/vfio/vfio", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
	HOLDS((container = open("/dev/vfio/vfio", O_RDWR)) >= 0);
	HOLDS(fcntl(container, F_GETFD) == 0);
	HOLDS(fstat(container, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 196));
	HOLDS(statx(container, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &sx) == 0 && sx.stx_rdev_minor == 196);
	HOLDS(fstatat(container, "", &st, AT_EMPTY_PATH) == 0 && S_ISCHR(st.st_mode));
	snprintf(link, sizeof link, "/proc/self/fd/%d", container);
	HOLDS(readlink(link, name, sizeof name) == 14 && !memcmp(name, "/dev/vfio/vfio", 14));
	HOLDS(ioctl(container, VERSION) == 0);
	FAILS(ioctl(container, 0x3bff), ENOTTY);
	HOLDS(ioctl(container, FIOCLEX) == 0 && fcntl(container, F_GETFD) == FD_CLOEXEC);
	FAILS(lseek(container, 0, SEEK_SET), ESPIPE);
	FAILS(read(container, name, 1), EINVAL);
	HOLDS(syscall(SYS_ioctl, container, VERSION) == 0);
	int relative = open("/dev/vfio", O_RDONLY | O_DIRECTORY);
	HOLDS((group = openat(relative, "1", O_RDWR | O_CLOEXEC)) >= 0);
	HOLDS(fcntl(group, F_GETFD) == FD_CLOEXEC);
	close(relative);
	FAILS(open("/dev/vfio/1", O_RDWR), EBUSY);
	FILE *f = fopen("/dev/vfio/vfio", "r+");
	HOLDS(f && ioctl(fileno(f), VERSION) == 0);
	int number = fileno(f);
	fclose(f);
	FAILS(ioctl(number, VERSION), EBADF);
	HOLDS(ioctl(group, SET_CONTAINER, &container) == 0);
	int other = open("/dev/null", O_RDWR);
	FAILS(ioctl(group, SET_CONTAINER, &other), EBADF);
	FAILS(ioctl(other, VERSION), ENOTTY);
	close(other);
	HOLDS((device = ioctl(group, DEVICE_FD, "0000:01:00.0")) >= 0);
	HOLDS(ioctl(device, RESET) == 0);
	HOLDS(fstat(device, &st) == 0 && (st.st_mode & S_IFMT) == 0);
}

static void transfers(void)
{
	unsigned char a[16], b[16];
	struct iovec v[2] = { { a, 4 }, { b, 4 } };
	HOLDS(pread(device, a, 4, 16) == 4 && a[0] == 16 && a[3] == 19);
	HOLDS(pread64(device, a, 16, 250) == 6 && a[5] == 255);
	HOLDS(pread(device, a, 4, 256) == 0);
	FAILS(pread(device, a, 4, -1), EINVAL);
	HOLDS(preadv(device, v, 2, 8) == 8 && a[0] == 8 && b[3] == 15);
	HOLDS(preadv(device, v, 2, 250) == 6);
	HOLDS(read(device, a, 4) == 4 && a[0] == 0 && read(device, a, 4) == 4 && a[0] == 4);
	HOLDS(pwritev(device, v, 2, 0) == 8 && writev(device, v, 2) == 8);
	FAILS(preadv(device, v, -1, 0), EINVAL);
}

static void duplicates(void)
{
	int a = dup(container), b = fcntl(container, F_DUPFD_CLOEXEC, 100);
	HOLDS(b >= 100 && ioctl(a, VERSION) == 0 && ioctl(b, VERSION) == 0);
	HOLDS(close(a) == 0 && ioctl(b, VERSION) == 0);
	FAILS(ioctl(a, VERSION), EBADF);
	FAILS(close(a), EBADF);
	int null = open("/dev/null", O_RDWR);
	HOLDS(dup2(null, b) == b);
	FAILS(ioctl(b, VERSION), ENOTTY);
	HOLDS(dup2(container, b) == b && ioctl(b, VERSION) == 0);
	HOLDS(dup3(container, b + 1, O_CLOEXEC) == b + 1 && ioctl(b + 1, VERSION) == 0);
	HOLDS(close_range(b, b + 1, 0) == 0);
	FAILS(ioctl(b, VERSION), EBADF);
	close(null);
	null = open("/dev/null", O_RDWR);
	FAILS(ioctl(null, VERSION), ENOTTY);
	close(null);
	/* The engine's own descriptor lies at 900: nothing of the client's closes it. */
	FAILS(close(900), EBADF);
	FAILS(dup2(0, 900), EBADF);
	closefrom(200);
	HOLDS(syscall(SYS_fcntl, 900, F_GETFD) >= 0);
	char data[4];
	HOLDS(pread(device, data, 4, 0) == 4);
}


static void mappings(void)
{
	FAILS((long)mmap(0, 4096, PROT_READ, MAP_PRIVATE, device, 0), EINVAL);
	FAILS((long)mmap(0, 4096, PROT_READ, MAP_SHARED, device, 4095), EINVAL);
	FAILS((long)mmap(0, 4096, PROT_READ, MAP_SHARED, device, 65536), EINVAL);
	FAILS((long)mmap(0, 4096, PROT_READ, MAP_SHARED, container, 0), ENODEV);
	FAILS((long)mmap(0, 0, PROT_READ, MAP_SHARED, device, 0), EINVAL);
	volatile char *m = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);
	HOLDS(m != MAP_FAILED);
	volatile char *again = mmap(0, 100, PROT_WRITE, MAP_SHARED, device, 0);
	m[5] = 77;
	HOLDS(again[5] == 77);
	/* A register page handed to the kernel is a bad address. */
	FAILS(syscall(SYS_write, 1, m + 4096, 8), EFAULT);
	HOLDS(mprotect((void *)m, 8192, PROT_READ) == 0 && m[5] == 77);
	HOLDS(mprotect((void *)m, 8192, PROT_READ | PROT_WRITE) == 0);
	m[6] = 1;
	FAILS((long)mremap((void *)again, 4096, 8192, MREMAP_MAYMOVE), EFAULT);
	HOLDS(munmap((void *)again, 4096) == 0);
	char *place = mmap(0, 16384, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	HOLDS(mmap(place + 4096, 8192, PROT_READ, MAP_SHARED | MAP_FIXED, device, 0) == place + 4096);
	HOLDS(place[4096 + 5] == 77 && place[0] == 0 && place[12288] == 0);
	HOLDS(mremap((void *)(place + 4096), 8192, 4096, 0) == place + 4096);
	HOLDS(mmap(place + 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == place + 4096);
	HOLDS(place[4096 + 5] == 0);
	HOLDS(munmap(place, 16384) == 0);
	HOLDS(munmap((void *)(m + 4096), 4096) == 0 && m[5] == 77);
	HOLDS(munmap((void *)m, 4096) == 0);
}

static sigjmp_buf there;

static void jump(int signal)
{
	siglongjmp(there, signal);
}

/* Whether the statement ended in the client's own SIGSEGV handler. */
#define KILLED(statement) (sigsetjmp(there, 1) ? 1 : ((statement), 0))

static void registers(void)
{
	unsigned long value = 41, data;
	volatile unsigned long *r = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, device, 4096);
	HOLDS(pwrite(device, &value, 8, 4096) == 8 && r[0] == 41);
	r[0] = 41;
	HOLDS(r[0] == 42);
	HOLDS(munmap((void *)r, 4096) == 0);
	volatile unsigned long *w = mmap(0, 4096, PROT_WRITE, MAP_SHARED, device, 4096);
	w[0] = 7;
	HOLDS(w[0] == 8);
	signal(SIGSEGV, jump);
	HOLDS(mprotect((void *)w, 4096, PROT_READ) == 0 && w[0] == 8 && KILLED(w[0] = 1) && w[0] == 8);
	HOLDS(mprotect((void *)w, 4096, PROT_NONE) == 0 && KILLED(data = w[0]));
	HOLDS(munmap((void *)w, 4096) == 0 && KILLED(data = w[0]));
	(void)data;
}

static int status_of(pid_t pid)
{
	int status = -1;
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + status;
}

static void children(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		wrong = 0;
		HOLDS(ioctl(container, VERSION) == 0);
		HOLDS(ioctl(device, RESET) == 0);
		unsigned char data[4] = { 0 };
		HOLDS(pread(device, data, 4, 8) == 4 && data[0] == 8 && data[3] == 11);
		FAILS(pread(device, (void *)nowhere, 4, 8), EFAULT);
		HOLDS(ioctl(group, SET_CONTAINER, &container) == 0);
		FAILS(ioctl(group, SET_CONTAINER, &(int){ 0 }), EBADF);
		FAILS(ioctl(group, SET_CONTAINER, &(int){ 999 }), EBADF);
		/* what the engine keeps for itself is not the client's to close */
		for (int fd = 3; fd < 1024; fd++)
			if (fd != container && fd != group)
				close(fd);
		HOLDS(ioctl(container, VERSION) == 0);
		FAILS(ioctl(device, RESET), EBADF);
		int mine = open("/dev/vfio/vfio", O_RDWR);
		HOLDS(mine >= 0 && ioctl(mine, VERSION) == 0);
		_exit(wrong);
	}
	HOLDS(status_of(pid) == 0);
	pid = syscall(SYS_fork);
	if (pid == 0) {
		wrong = 0;
		HOLDS(ioctl(container, VERSION) == 0);
		_exit(wrong);
	}
	HOLDS(status_of(pid) == 0);
	/* the thread that waits for children does not count; the one that answered the last child ends soon after it */
	for (int i = 0; i < 500 && unshare(CLONE_THREAD) != 0; i++)
		usleep(10000);
	HOLDS(unshare(CLONE_THREAD) == 0);
	pid = vfork();
	if (pid == 0) {
		close(device);
		close(group);
		dup2(0, container);
		_exit(open("/dev/vfio/vfio", O_RDWR) >= 0);
	}
	HOLDS(status_of(pid) == 0);
	HOLDS(ioctl(container, VERSION) == 0 && ioctl(device, RESET) == 0);
	FAILS(open("/dev/vfio/1", O_RDWR), EBUSY);
	posix_spawn_file_actions_t actions;
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_addclose(&actions, device);
	char *list[] = { "true", 0 };
	HOLDS(posix_spawnp(&pid, "true", &actions, 0, list, 0) == 0 && status_of(pid) == 0);
	HOLDS(ioctl(device, RESET) == 0);
	HOLDS(system("exit 3") == 3 << 8);
}

static volatile int stop;

static void *busy(void *unused)
{
	while (!stop) {
		int fd = dup(container);
		if (fd >= 0 && ioctl(fd, VERSION) != 0)
			wrong++;
		close(fd);
		void *m = mmap(0, 4096, PROT_READ, MAP_SHARED, device, 0);
		if (m == MAP_FAILED)
			wrong++;
		munmap(m, 4096);
	}
	return unused;
}

static void *nothing(void *unused)
{
	return unused;
}

static void threads(void)
{
	pthread_t t[3], left;
	HOLDS(pthread_create(&left, 0, nothing, 0) == 0 && pthread_detach(left) == 0);
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], 0, busy, 0);
	for (int i = 0; i < 50; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			int mine = open("/dev/vfio/vfio", O_RDWR);
			_exit(!(mine >= 0 && ioctl(mine, VERSION) == 0));
		}
		HOLDS(status_of(pid) == 0);
	}
	stop = 1;
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], 0);
}

static void lifetime(void)
{
	/* The mapping keeps the device, not the group's number: the group is free once nothing refers to it. */
	void *m = mmap(0, 4096, PROT_READ, MAP_SHARED, device, 0);
	int again;
	HOLDS(close(device) == 0 && close(group) == 0 && close(container) == 0);
	HOLDS((again = open("/dev/vfio/1", O_RDWR)) >= 0);
	HOLDS(close(again) == 0 && munmap(m, 4096) == 0);
}

int main(void)
{
	setvbuf(stdout, 0, _IONBF, 0);
	nodes();
	transfers();
	duplicates();
	mappings();
	registers();
	children();
	threads();
	lifetime();
	if (wrong)
		_Exit(wrong);
	_exit(0);
}
