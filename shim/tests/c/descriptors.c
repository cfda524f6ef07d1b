/* Calls every function on descriptors and mappings with an ordinary file (argv[1]) and prints what each answered. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SAY(name, value) do { errno = 0; long say = (long)(value); int error = errno; \
	printf("%s = %ld errno %d\n", name, say, say < 0 ? error : 0); } while (0)
#define CALL(ret, name, ...) ((ret (*)(__VA_ARGS__))dlsym(RTLD_DEFAULT, name))

static char data[64];

static void io(int fd)
{
	struct iovec v[2] = { { data, 4 }, { data + 8, 4 } };
	SAY("write", write(fd, "0123456789abcdef", 16));
	SAY("pwrite", pwrite(fd, "AB", 2, 2));
	SAY("pwrite64", pwrite64(fd, "CD", 2, 4));
	SAY("lseek", lseek(fd, 0, SEEK_SET));
	SAY("lseek64", lseek64(fd, 1, SEEK_CUR));
	SAY("lseek bad", lseek(fd, -9, SEEK_SET));
	SAY("read", read(fd, data, 4));
	SAY("__read_chk", CALL(long, "__read_chk", int, void *, size_t, size_t)(fd, data, 4, 64));
	SAY("pread", pread(fd, data, 8, 0));
	SAY("pread64", pread64(fd, data, 8, 100));
	SAY("pread bad", pread(fd, data, 8, -1));
	SAY("__pread_chk", CALL(long, "__pread_chk", int, void *, size_t, long, size_t)(fd, data, 8, 0, 64));
	SAY("__pread64_chk", CALL(long, "__pread64_chk", int, void *, size_t, long, size_t)(fd, data, 8, 0, 64));
	SAY("readv", readv(fd, v, 2));
	SAY("writev", writev(fd, v, 2));
	SAY("preadv", preadv(fd, v, 2, 1));
	SAY("preadv64", preadv64(fd, v, 2, 1));
	SAY("pwritev", pwritev(fd, v, 2, 1));
	SAY("pwritev64", pwritev64(fd, v, 2, 1));
	SAY("preadv2", preadv2(fd, v, 2, -1, 0));
	SAY("preadv64v2", preadv64v2(fd, v, 2, 0, 0));
	SAY("pwritev2", pwritev2(fd, v, 2, -1, 0));
	SAY("pwritev64v2", pwritev64v2(fd, v, 2, 0, 0));
	SAY("preadv2 flags", preadv2(fd, v, 2, 0, 0x4000));
	SAY("readv many", readv(fd, v, 100000));
	SAY("ioctl", ioctl(fd, FIONREAD, data) < 0 ? -1 : 0);
	SAY("ioctl vfio", ioctl(fd, 0x3b64));
	SAY("bad fd", read(999, data, 1));
	SAY("huge fd", read(0x7fffffff, data, 1));
	SAY("negative fd", write(-1, data, 1));
	SAY("fault", read(fd, (void *)8, 8) < 0 ? -1 : 0);
}

static void numbers(int fd)
{
	SAY("dup", dup(fd));
	SAY("dup2", dup2(fd, 40));
	SAY("dup2 same", dup2(fd, fd));
	SAY("dup2 bad", dup2(-1, 41));
	SAY("__dup2", CALL(int, "__dup2", int, int)(fd, 42));
	SAY("dup3", dup3(fd, 43, O_CLOEXEC));
	SAY("dup3 same", dup3(fd, fd, 0));
	SAY("fcntl", fcntl(fd, F_DUPFD, 50));
	SAY("fcntl cloexec", fcntl(fd, F_DUPFD_CLOEXEC, 50));
	SAY("fcntl get", fcntl(43, F_GETFD));
	SAY("fcntl64", CALL(int, "fcntl64", int, int, ...)(fd, F_GETFL));
	SAY("__fcntl", CALL(int, "__fcntl", int, int, ...)(fd, F_GETFL));
	SAY("close", close(43));
	SAY("close again", close(43));
	SAY("__close", CALL(int, "__close", int)(42));
	SAY("close_range", close_range(50, 51, 0));
	SAY("close_range bad", close_range(9, 8, 0));
	SAY("fcntl closed", fcntl(50, F_GETFD));
	SAY("syscall", syscall(SYS_dup, fd));
	SAY("syscall close", syscall(SYS_close, 40));
	closefrom(fd + 1);
	SAY("closefrom", fcntl(fd + 1, F_GETFD));
}

static void maps(int fd)
{
	size_t page = 4096;
	SAY("ftruncate", ftruncate(fd, 4 * page));
	char *a = mmap(0, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	SAY("mmap", a == MAP_FAILED ? -1 : 0);
	char *b = mmap64(0, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	SAY("mmap64", b == MAP_FAILED ? -1 : 0);
	SAY("mmap bad fd", mmap(0, page, PROT_READ, MAP_SHARED, 999, 0) == MAP_FAILED ? -1 : 0);
	SAY("mmap no length", mmap(0, 0, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -1 : 0);
	SAY("mmap unaligned", mmap(0, page, PROT_READ, MAP_SHARED, fd, 5) == MAP_FAILED ? -1 : 0);
	SAY("fixed", mmap(a + page, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == a + page);
	SAY("mprotect", mprotect(a, page, PROT_READ));
	SAY("mprotect unaligned", mprotect(a + 1, page, PROT_READ));
	SAY("mprotect hole", mprotect((void *)page, page, PROT_READ));
	SAY("madvise", madvise(a, page, MADV_DONTNEED));
	SAY("madvise bad", madvise(a, page, 12345));
	SAY("posix_madvise", posix_madvise(a, page, POSIX_MADV_WILLNEED));
	SAY("posix_madvise dontneed", posix_madvise(a, page, POSIX_MADV_DONTNEED));
	SAY("posix_madvise bad", posix_madvise(a, page, 12345));
	char *c = mremap(b, page, 2 * page, MREMAP_MAYMOVE);
	SAY("mremap", c == MAP_FAILED ? -1 : 0);
	SAY("mremap bad", mremap((void *)page, page, page, 0) == MAP_FAILED ? -1 : 0);
	SAY("munmap", munmap(a, 4 * page));
	SAY("munmap unaligned", munmap(a + 1, page));
	SAY("munmap nothing", munmap(a, 0));
	SAY("munmap again", munmap(a, page));
}

/* A descriptor over a socket arrives as the file it is. */
static void sockets(int fd)
{
	int pair[2], got;
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec io = { &byte, 1 };
	struct mmsghdr m = { .msg_hdr = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = control,
					  .msg_controllen = sizeof(control) } };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m.msg_hdr);

	SAY("socketpair", socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	for (int several = 0; several < 2; several++) {
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
		m.msg_hdr.msg_controllen = sizeof(control);
		if (several)
			SAY("sendmmsg", sendmmsg(pair[0], &m, 1, 0));
		else
			SAY("sendmsg", sendmsg(pair[0], &m.msg_hdr, 0));
		if (several)
			SAY("recvmmsg", recvmmsg(pair[1], &m, 1, 0, 0));
		else
			SAY("recvmsg", recvmsg(pair[1], &m.msg_hdr, 0));
		memcpy(&got, CMSG_DATA(c), sizeof(got));
		SAY("received", got != fd && lseek(got, 0, SEEK_END) == lseek(fd, 0, SEEK_END));
		close(got);
	}
	SAY("sendmsg nowhere", sendmsg(pair[0], (void *)8, 0));
	SAY("sendmmsg nowhere", sendmmsg(pair[0], (void *)8, 1, 0));
	SAY("recvmsg nothing", recvmsg(pair[1], &m.msg_hdr, MSG_DONTWAIT));
	SAY("recvmmsg nothing", recvmmsg(pair[1], &m, 1, MSG_DONTWAIT, 0));
	SAY("unshare", unshare(CLONE_FS));
	SAY("unshare thread", unshare(CLONE_THREAD));
	SAY("unshare bad", unshare(1));
	SAY("setns", setns(fd, 0));
	SAY("setns bad", setns(-1, CLONE_NEWUSER));
}

int main(int argc, char **argv)
{
	(void)argc;
	setvbuf(stdout, 0, _IONBF, 0);
	int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC, 0600);
	io(fd);
	numbers(fd);
	maps(fd);
	sockets(fd);
	return 0;
}
