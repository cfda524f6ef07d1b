/* Calls the functions on signals, which share four of them with the library, and prints what each answered. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#define SAY(name, value) do { errno = 0; long say = (long)(value); int error = errno; \
	printf("%s = %ld errno %d\n", name, say, say < 0 ? error : 0); } while (0)
#define CALL(ret, name, ...) ((ret (*)(__VA_ARGS__))dlsym(RTLD_DEFAULT, name))

typedef void (*handler)(int);

static volatile int seen;
static void count(int signal) { seen += signal; }

/* Which handler it is, for addresses differ. */
static int kind(handler h) { return h == SIG_DFL ? 0 : h == SIG_IGN ? 1 : h == count ? 2 : h == SIG_ERR ? 3 : 4; }

static void handlers(int number)
{
	struct sigaction action = { .sa_handler = count, .sa_flags = SA_RESTART }, old;
	printf("-- %d\n", number);
	SAY("sigaction", sigaction(number, &action, &old));
	printf("old %d\n", kind(old.sa_handler));
	SAY("sigaction get", sigaction(number, 0, &old));
	printf("old %d %x\n", kind(old.sa_handler), old.sa_flags & SA_RESTART);
	SAY("raise", raise(number));
	SAY("seen", seen);
	printf("signal %d\n", kind(signal(number, SIG_IGN)));
	printf("bsd_signal %d\n", kind(CALL(handler, "bsd_signal", int, handler)(number, count)));
	printf("sysv_signal %d\n", kind(sysv_signal(number, count)));
	SAY("raise", raise(number));
	printf("__sysv_signal %d\n", kind(__sysv_signal(number, count)));
	printf("sigset %d\n", kind(sigset(number, SIG_HOLD)));
	printf("sigset %d\n", kind(sigset(number, SIG_DFL)));
	SAY("seen", seen);
}

static void masks(int number)
{
	sigset_t set, old, empty;
	struct timespec now = { 0, 1 };
	struct pollfd fd = { 0, POLLIN };
	struct epoll_event event;
	stack_t stack = { .ss_flags = SS_DISABLE };
	printf("-- mask %d\n", number);
	signal(number, count);
	sigemptyset(&empty);
	sigemptyset(&set);
	sigaddset(&set, number);
	SAY("sigprocmask", sigprocmask(SIG_BLOCK, &set, &old));
	SAY("member", sigismember(&old, number));
	SAY("pthread_sigmask", pthread_sigmask(SIG_BLOCK, 0, &old));
	SAY("member", sigismember(&old, number));
	SAY("sigprocmask bad", sigprocmask(77, &set, 0));
	seen = 0;
	raise(number);
	SAY("held", seen);
	SAY("unblock", sigprocmask(SIG_UNBLOCK, &set, 0));
	SAY("seen", seen);
	SAY("ppoll", ppoll(&fd, 0, &now, &set));
	SAY("__ppoll_chk", CALL(int, "__ppoll_chk", void *, long, void *, void *, size_t)(&fd, 0, &now, &set, sizeof fd));
	SAY("pselect", pselect(0, 0, 0, 0, &now, &set));
	int epoll = epoll_create1(0);
	SAY("epoll_pwait", epoll_pwait(epoll, &event, 1, 0, &set));
	SAY("epoll_pwait2", epoll_pwait2(epoll, &event, 1, &now, &set));
	close(epoll);
	SAY("sigaltstack", sigaltstack(0, &stack));
	printf("disabled %d\n", stack.ss_flags == SS_DISABLE);
}

int main(void)
{
	sigset_t set, before;
	setvbuf(stdout, 0, _IONBF, 0);
	handlers(SIGUSR1);
	handlers(SIGSEGV);
	masks(SIGUSR2);
	signal(SIGALRM, count);
	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	sigprocmask(SIG_BLOCK, &set, &before);
	alarm(1);
	seen = 0;
	SAY("sigsuspend", sigsuspend(&before));
	SAY("seen", seen);
	return 0;
}
