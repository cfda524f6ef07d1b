/* Opens a node and asks it something behind libc's back, in main, in a thread and in a child; then properly. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static long raw(long number, long a, long b, long c, long d)
{
	long result;
	register long r10 __asm__("r10") = d;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}

static void *escape(void *unused)
{
	int fd = open("/dev/vfio/vfio", O_RDWR);
	raw(SYS_ioctl, fd, 0x3b64, 0, 0);
	raw(SYS_getpid, 0, 0, 0, 0);
	close(fd);
	return unused;
}

int main(int argc, char **argv)
{
	const char *how = argc > 1 ? argv[1] : "";
	pthread_t thread;
	if (!strcmp(how, "open"))
		raw(SYS_openat, AT_FDCWD, (long)"/dev/vfio/vfio", O_RDWR, 0);
	else if (!strcmp(how, "ioctl"))
		escape(0);
	else if (!strcmp(how, "thread") && !pthread_create(&thread, 0, escape, 0))
		pthread_join(thread, 0);
	else if (!strcmp(how, "child") && fork() == 0)
		escape(0);
	else {
		int fd = open("/dev/vfio/vfio", O_RDWR);
		raw(SYS_openat, AT_FDCWD, (long)"/dev/null", O_RDWR, 0);
		/* The library blocks all signals for this, the audit's own too. */
		signal(SIGUSR1, SIG_IGN);
		close(fd);
	}
	while (wait(0) > 0)
		;
	return 0;
}
