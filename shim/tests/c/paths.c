/* Calls every function that takes or gives a path, on the directory argv[1], and prints what each answered.
 * The directory holds: vendor (a file, "0x8086\n"), link (a symbolic link to vendor), sub/inner (a file). */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

static char path[PATH_MAX], buffer[PATH_MAX];
static const char *base;

static const char *in(const char *name)
{
	snprintf(path, sizeof path, "%s/%s", base, name);
	return path;
}

/* A symbol that the headers do not offer. */
static void *symbol(const char *name)
{
	void *address = dlsym(RTLD_DEFAULT, name);
	if (!address)
		address = dlvsym(RTLD_DEFAULT, name, "GLIBC_2.2.5");
	if (!address)
		address = dlvsym(RTLD_DEFAULT, name, "GLIBC_2.4");
	if (!address) {
		fprintf(stderr, "no %s\n", name);
		exit(77);
	}
	return address;
}
#define CALL(ret, name, ...) ((ret (*)(__VA_ARGS__))symbol(name))

#define SAY(name, value) do { errno = 0; long say = (long)(value); \
	printf("%s = %ld errno %d\n", name, say < 0 ? -1 : say != 0, say < 0 ? errno : 0); } while (0)

static void opened(const char *name, int fd)
{
	int error = errno;
	char data[16] = "";
	if (fd >= 0) {
		long n = read(fd, data, 15);
		if (n < 0)
			snprintf(data, sizeof data, "E%d", errno);
		close(fd);
	}
	printf("%s: %s errno %d %s\n", name, fd < 0 ? "failed" : "open", fd < 0 ? error : 0, data);
}

static void shown(const char *name, int result, const struct stat *st)
{
	int error = errno;
	if (result)
		printf("%s: errno %d\n", name, error);
	else
		printf("%s: mode %o size %ld ino %lu\n", name, st->st_mode, (long)st->st_size, (unsigned long)st->st_ino);
}

static void text(const char *name, long length)
{
	int error = errno;
	if (length < 0)
		printf("%s: errno %d\n", name, error);
	else
		printf("%s: %.*s\n", name, (int)length, buffer);
}

static void string(const char *name, char *result)
{
	int error = errno;
	printf("%s: %s errno %d\n", name, result ? result : "(null)", result ? 0 : error);
}

static void opens(void)
{
	const char *names[] = { "vendor", "absent", "sub", "vendor/x", "link", "./sub/../vendor", "/sub//inner" };
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		printf("-- %s\n", names[i]);
		opened("open", open(in(names[i]), O_RDONLY));
		opened("open64", open64(in(names[i]), O_RDONLY));
		opened("openat", openat(AT_FDCWD, in(names[i]), O_RDONLY));
		opened("openat64", openat64(AT_FDCWD, in(names[i]), O_RDONLY));
		opened("__open", CALL(int, "__open", const char *, int)(in(names[i]), O_RDONLY));
		opened("__open64", CALL(int, "__open64", const char *, int)(in(names[i]), O_RDONLY));
		opened("__open_2", CALL(int, "__open_2", const char *, int)(in(names[i]), O_RDONLY));
		opened("__open64_2", CALL(int, "__open64_2", const char *, int)(in(names[i]), O_RDONLY));
		opened("__openat_2", CALL(int, "__openat_2", int, const char *, int)(AT_FDCWD, in(names[i]), O_RDONLY));
		opened("__openat64_2", CALL(int, "__openat64_2", int, const char *, int)(AT_FDCWD, in(names[i]), O_RDONLY));
		opened("syscall", syscall(SYS_openat, AT_FDCWD, in(names[i]), O_RDONLY, 0));
		FILE *f = fopen(in(names[i]), "r");
		opened("fopen", f ? dup(fileno(f)) : -1);
		if (f)
			fclose(f);
		f = fopen64(in(names[i]), "re");
		opened("fopen64", f ? dup(fileno(f)) : -1);
		f = f ? freopen(in("vendor"), "r", f) : 0;
		opened("freopen", f ? dup(fileno(f)) : -1);
		f = f ? freopen64(in("sub/inner"), "r", f) : 0;
		opened("freopen64", f ? dup(fileno(f)) : -1);
		if (f)
			fclose(f);
	}
	opened("creat", creat(in("made"), 0600));
	opened("creat64", creat64(in("sub/made"), 0600));
	opened("excl", open(in("made"), O_CREAT | O_EXCL | O_RDWR, 0600));
	
	int dir = open(base, O_RDONLY | O_DIRECTORY);
	SAY("unlinkat", unlinkat(dir, "made", 0));
	SAY("unlinkat", unlinkat(dir, "sub/made", 0));
	opened("openat relative", openat(dir, "vendor", O_RDONLY));
	opened("openat up", openat(dir, "sub/../vendor", O_RDONLY));
	opened("openat absent", openat(dir, "nothing", O_RDONLY));
	close(dir);
	opened("bad dir", openat(dir, "vendor", O_RDONLY));
	opened("null", open(0, O_RDONLY));
	opened("empty", open("", O_RDONLY));
}

static void stats(void)
{
	struct stat st;
	struct statx sx;
	struct statfs fs;
	const char *names[] = { "vendor", "absent", "sub", "link" };
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		printf("-- %s\n", names[i]);
		shown("stat", stat(in(names[i]), &st), &st);
		shown("stat64", stat64(in(names[i]), (void *)&st), &st);
		shown("lstat", lstat(in(names[i]), &st), &st);
		shown("lstat64", lstat64(in(names[i]), (void *)&st), &st);
		shown("fstatat", fstatat(AT_FDCWD, in(names[i]), &st, 0), &st);
		shown("fstatat64", fstatat64(AT_FDCWD, in(names[i]), (void *)&st, AT_SYMLINK_NOFOLLOW), &st);
		shown("__xstat", CALL(int, "__xstat", int, const char *, void *)(1, in(names[i]), &st), &st);
		shown("__xstat64", CALL(int, "__xstat64", int, const char *, void *)(1, in(names[i]), &st), &st);
		shown("__lxstat", CALL(int, "__lxstat", int, const char *, void *)(1, in(names[i]), &st), &st);
		shown("__lxstat64", CALL(int, "__lxstat64", int, const char *, void *)(1, in(names[i]), &st), &st);
		shown("__fxstatat", CALL(int, "__fxstatat", int, int, const char *, void *, int)(1, AT_FDCWD, in(names[i]), &st, 0), &st);
		shown("__fxstatat64", CALL(int, "__fxstatat64", int, int, const char *, void *, int)(1, AT_FDCWD, in(names[i]), &st, 0), &st);
		int x = statx(AT_FDCWD, in(names[i]), 0, STATX_BASIC_STATS, &sx);
		printf("statx %d mode %o size %ld\n", x, x ? 0 : sx.stx_mode, x ? errno : (long)sx.stx_size);
		SAY("access", access(in(names[i]), R_OK));
		SAY("access x", access(in(names[i]), X_OK));
		SAY("faccessat", faccessat(AT_FDCWD, in(names[i]), F_OK, 0));
		SAY("faccessat eff", faccessat(AT_FDCWD, in(names[i]), R_OK, AT_EACCESS));
		SAY("euidaccess", euidaccess(in(names[i]), R_OK));
		SAY("eaccess", eaccess(in(names[i]), R_OK));
		SAY("getxattr", getxattr(in(names[i]), "user.none", buffer, 10));
		SAY("lgetxattr", lgetxattr(in(names[i]), "user.none", buffer, 10));
		SAY("listxattr", listxattr(in(names[i]), buffer, 100));
		SAY("llistxattr", llistxattr(in(names[i]), buffer, 100));
		SAY("statfs", statfs(in(names[i]), &fs));
		SAY("statfs64", statfs64(in(names[i]), (void *)&fs));
	}
	int fd = open(in("vendor"), O_RDONLY);
	shown("fstat", fstat(fd, &st), &st);
	shown("fstat64", fstat64(fd, (void *)&st), &st);
	shown("__fxstat", CALL(int, "__fxstat", int, int, void *)(1, fd, &st), &st);
	shown("__fxstat64", CALL(int, "__fxstat64", int, int, void *)(1, fd, &st), &st);
	shown("empty path", fstatat(fd, "", &st, AT_EMPTY_PATH), &st);
	close(fd);
	shown("fstat closed", fstat(fd, &st), &st);
	SAY("statx null", statx(0, 0, 0, STATX_ALL, 0));
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }
static int visible(const struct dirent *e) { return e->d_name[0] != '.'; }

static void scanned(const char *name, struct dirent **list, int count)
{
	printf("%s: %d", name, count);
	for (int i = 0; i < count; i++) {
		printf(" %s/%d", list[i]->d_name, list[i]->d_type);
		free(list[i]);
	}
	printf("\n");
}

static void directories(void)
{
	struct dirent **list;
	DIR *dir = opendir(base);
	int count = 0;
	while (dir && readdir(dir))
		count++;
	rewinddir(dir);
	while (dir && readdir64(dir))
		count++;
	rewinddir(dir);
	struct dirent entry, *result = 0;
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
	if (readdir_r(dir, &entry, &result) == 0 && result)
		count++;
	if (readdir64_r(dir, (void *)&entry, (void *)&result) == 0 && result)
		count++;
	printf("directory: %d close %d\n", count, closedir(dir));
	printf("absent: %p errno %d\n", (void *)opendir(in("absent")), errno);
	int fd = open(base, O_RDONLY | O_DIRECTORY);
	dir = fdopendir(fd);
	opened("dirfd", openat(dirfd(dir), "vendor", O_RDONLY));
	closedir(dir);
	scanned("scandir", list, scandir(base, &list, visible, by_name));
	scanned("scandir64", list, scandir64(base, (void *)&list, (void *)visible, (void *)by_name));
	scanned("scandirat", list, scandirat(AT_FDCWD, base, &list, visible, by_name));
	glob_t g;
	const char *patterns[] = { "*", "sub/*", "ven*r", "absent*", "vendor" };
	for (unsigned i = 0; i < sizeof patterns / sizeof *patterns; i++) {
		int r = glob(in(patterns[i]), 0, 0, &g);
		printf("glob %s: %d %d", patterns[i], r, r ? 0 : (int)g.gl_pathc);
		for (unsigned k = 0; !r && k < g.gl_pathc; k++)
			printf(" %s", g.gl_pathv[k]);
		printf("\n");
		if (!r)
			globfree(&g);
		r = glob64(in(patterns[i]), GLOB_MARK, 0, (void *)&g);
		printf("glob64: %d %s\n", r, r ? "" : g.gl_pathv[0]);
		if (!r)
			globfree(&g);
	}
}

static void links(void)
{
	char link[64];
	text("readlink", readlink(in("link"), buffer, sizeof buffer));
	text("readlink short", readlink(in("link"), buffer, 3));
	text("readlink none", readlink(in("link"), buffer, 0));
	text("readlink file", readlink(in("vendor"), buffer, sizeof buffer));
	text("readlinkat", readlinkat(AT_FDCWD, in("link"), buffer, sizeof buffer));
	text("__readlink_chk", CALL(long, "__readlink_chk", const char *, char *, size_t, size_t)(in("link"), buffer, 100, sizeof buffer));
	text("__readlinkat_chk", CALL(long, "__readlinkat_chk", int, const char *, char *, size_t, size_t)(AT_FDCWD, in("link"), buffer, 100, sizeof buffer));
	string("realpath", realpath(in("link"), buffer));
	string("realpath null", realpath(in("sub/.."), 0));
	string("realpath absent", realpath(in("absent"), 0));
	string("__realpath_chk", CALL(char *, "__realpath_chk", const char *, char *, size_t)(in("sub"), buffer, sizeof buffer));
	string("canonicalize_file_name", canonicalize_file_name(in("sub/inner")));
	int fd = open(in("vendor"), O_RDONLY);
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	text("proc link", readlink(link, buffer, sizeof buffer));
	string("proc real", realpath(link, 0));
	snprintf(link, sizeof link, "/proc/%d/fd/%d", getpid(), fd);
	text("proc pid link", readlink(link, buffer, sizeof buffer));
	close(fd);
	SAY("chdir absent", chdir(in("absent")));
	SAY("chdir", chdir(base));
	string("getcwd", getcwd(buffer, sizeof buffer));
	string("getcwd null", getcwd(0, 0));
	string("getcwd short", getcwd(buffer, 3));
	string("getcwd none", getcwd(buffer, 0));
	string("__getcwd_chk", CALL(char *, "__getcwd_chk", char *, size_t, size_t)(buffer, 4000, sizeof buffer));
	unsetenv("PWD");
	string("get_current_dir_name", get_current_dir_name());
	opened("relative", open("vendor", O_RDONLY));
	opened("relative up", open("sub/../sub/inner", O_RDONLY));
	opened("out", open("../../../../../../../../../../../../../../etc/passwd", O_PATH));
	string("relative real", realpath("link", 0));
	fd = open("sub", O_RDONLY | O_DIRECTORY);
	SAY("fchdir", fchdir(fd));
	string("getcwd", getcwd(buffer, sizeof buffer));
	close(fd);
	SAY("fchdir closed", fchdir(fd));
	SAY("chdir /", chdir("/"));
	string("getcwd", getcwd(buffer, sizeof buffer));
	text("proc cwd", readlink("/proc/self/cwd", buffer, sizeof buffer));
	opened("after", open(base + 1, O_RDONLY | O_DIRECTORY));
}

int main(int argc, char **argv)
{
	(void)argc;
	base = argv[1];
	setvbuf(stdout, 0, _IONBF, 0);
	opens();
	stats();
	directories();
	links();
	return 0;
}
