/* Files of the toy machine in several processes. The first argument says what to do. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define VERSION 0x3b64
#define SET_CONTAINER 0x3b68
#define DEVICE_FD 0x3b6a
#define RESET 0x3b6f

static int container, group, device;

static void open_all(void)
{
	container = open("/dev/vfio/vfio", O_RDWR);
	group = open("/dev/vfio/1", O_RDWR);
	device = ioctl(group, DEVICE_FD, "0000:01:00.0");
	if (container < 0 || group < 0 || device < 0)
		exit(99);
}

/* The opener ends while a child still has its files. */
static int orphan(void)
{
	volatile uint32_t *registers;
	int ends[2], asked[2], answer;
	char c = 0;

	open_all();
	registers = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, device, 4096);
	if (registers == MAP_FAILED || pipe(ends) || pipe(asked))
		return 1;
	if (fork())
		return read(asked[0], &c, 1) != 1;
	close(ends[1]);
	printf("alive %d\n", ioctl(container, VERSION));
	if (write(asked[1], &c, 1) != 1)
		return 1;
	/* The other end closes when the parent is gone. */
	if (read(ends[0], &c, 1))
		return 1;
	answer = ioctl(container, VERSION);
	printf("ioctl %d ENODEV %d\n", answer, errno == ENODEV);
	answer = pread(device, &c, 1, 0);
	printf("pread %d ENODEV %d\n", answer, errno == ENODEV);
	printf("register %x\n", registers[0]);
	printf("close %d\n", close(container) | close(group) | close(device));
	printf("mine %d\n", ioctl(open("/dev/vfio/vfio", O_RDWR), VERSION));
	return 0;
}

/* Answers while the test sends what it likes. */
static int serve(void)
{
	char c;

	open_all();
	if (!fork())
		_exit(0);
	wait(0);
	printf("%d\n", getpid());
	fflush(stdout);
	if (read(0, &c, 1) != 1)
		return 1;
	if (!fork())
		_exit(ioctl(device, RESET) != 0);
	int status;
	wait(&status);
	printf("%d %d %d\n", status, ioctl(container, VERSION), ioctl(device, RESET));
	return 0;
}

/* Children that call, map, close and are killed in the middle of it. */
static int killed(void)
{
	open_all();
	for (int round = 0; round < 40; round++) {
		pid_t child = fork();

		if (!child)
			for (unsigned i = 0;; i++) {
				char data[8];
				volatile uint64_t *r = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, device, 0);

				if (ioctl(container, VERSION) || ioctl(group, SET_CONTAINER, &container))
					_exit(1);
				if (pread(device, data, 8, 0) != 8 || r == MAP_FAILED)
					_exit(2);
				r[512] = i;
				close(dup(device));
				munmap((void *)r, 8192);
			}
		usleep(500 * (round % 9));
		kill(child, SIGKILL);
		int status;
		waitpid(child, &status, 0);
		if (!WIFSIGNALED(status)) {
			printf("child %d\n", WEXITSTATUS(status));
			return 1;
		}
	}
	close(device);
	close(group);
	group = open("/dev/vfio/1", O_RDWR);
	printf("free %d\n", group >= 0);
	return 0;
}

/* The last close of a group frees it at once, wherever it is made. */
static int last(void)
{
	int go[2], done[2];
	char c = 0;

	open_all();
	if (pipe(go) || pipe(done))
		return 1;
	if (!fork()) {
		if (read(go[0], &c, 1) != 1)
			return 1;
		close(device);
		close(group);
		c = write(done[1], &c, 1);
		pause();
	}
	close(device);
	close(group);
	printf("busy %d\n", open("/dev/vfio/1", O_RDWR) < 0 && errno == EBUSY);
	c = write(go[1], &c, 1);
	c = read(done[0], &c, 1);
	printf("free %d\n", open("/dev/vfio/1", O_RDWR) >= 0);
	fflush(stdout);
	return kill(0, SIGTERM);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, 0, _IOLBF, 0);
	(void)argc;
	if (!strcmp(argv[1], "last")) {
		setpgid(0, 0);
		signal(SIGTERM, SIG_IGN);
		signal(SIGTERM, SIG_DFL);
		return last();
	}
	return !strcmp(argv[1], "orphan") ? orphan() : !strcmp(argv[1], "serve") ? serve() : killed();
}
