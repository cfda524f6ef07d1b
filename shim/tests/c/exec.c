/* Starts argv[2] (a program that prints its environment) in the way argv[1] names, with an empty environment where
 * the call takes one. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv)
{
	(void)argc;
	const char *how = argv[1], *program = argv[2];
	char *list[] = { "env", 0 }, *theirs[] = { "THEIRS=1", "LD_PRELOAD=", 0 }, **none = theirs + 2;
	pid_t pid = 0;
	int status = 0;
	if (!strcmp(how, "execve"))
		execve(program, list, theirs);
	if (!strcmp(how, "execve_none"))
		execve(program, list, none);
	if (!strcmp(how, "execvpe"))
		execvpe(program, list, theirs);
	if (!strcmp(how, "execle"))
		execle(program, "env", "-u", "1", "-u", "2", "-u", "3", "-u", "4", (char *)0, theirs);
	if (!strcmp(how, "fexecve"))
		fexecve(open(program, O_RDONLY), list, theirs);
	if (!strcmp(how, "execveat"))
		execveat(AT_FDCWD, program, list, theirs, 0);
	if (!strcmp(how, "vfork")) {
		if ((pid = vfork()) == 0) {
			execve(program, list, theirs);
			_exit(9);
		}
		waitpid(pid, &status, 0);
		return WEXITSTATUS(status);
	}
	if (!strcmp(how, "posix_spawn") && posix_spawn(&pid, program, 0, 0, list, theirs) == 0)
		return waitpid(pid, &status, 0) != pid || WEXITSTATUS(status);
	if (!strcmp(how, "posix_spawnp") && posix_spawnp(&pid, program, 0, 0, list, theirs) == 0)
		return waitpid(pid, &status, 0) != pid || WEXITSTATUS(status);
	clearenv();
	environ = theirs;
	if (!strcmp(how, "execv"))
		execv(program, list);
	if (!strcmp(how, "execvp"))
		execvp(program, list);
	if (!strcmp(how, "execl"))
		execl(program, "env", "-u", "1", "-u", "2", "-u", "3", "-u", "4", (char *)0);
	if (!strcmp(how, "execlp"))
		execlp(program, "env", (char *)0);
	return 9;
}
