/*
 * What the measuring programs share: clocks, medians of rounds in which all contenders take turns, and one line per
 * figure, `name: nanoseconds`, for `cargo xtask bench`.
 */
#ifndef BENCH_H
#define BENCH_H

#include "../client.h"
#include <time.h>

#define ROUNDS_MOST 31

static unsigned rounds = 11;

static double seconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Processor time of the calling thread, in nanoseconds: other work on the machine does not count. */
static inline double cpu_ns(void)
{
	return seconds(CLOCK_THREAD_CPUTIME_ID) * 1e9;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *values, unsigned n)
{
	qsort(values, n, sizeof(*values), by_value);
	return values[n / 2];
}

/* One of several things to be timed: `body` does it n times. */
struct contender {
	const char *name;
	void (*body)(unsigned n);
	unsigned n;
	double each[ROUNDS_MOST];
};

/* Times all of them in turns and prints the median time of each. */
static inline void race(struct contender *all, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		all[i].body(all[i].n / 10 + 1);
	for (unsigned round = 0; round < rounds; round++)
		for (unsigned i = 0; i < count; i++) {
			double start = cpu_ns();

			all[i].body(all[i].n);
			all[i].each[round] = (cpu_ns() - start) / all[i].n;
		}
	for (unsigned i = 0; i < count; i++)
		say(all[i].name, "%.2f", median(all[i].each, rounds));
}

/* The number of rounds is every program's first argument. */
static inline void arguments(int argc, char **argv)
{
	if (argc > 1)
		rounds = atoi(argv[1]);
	if (!rounds || rounds > ROUNDS_MOST)
		rounds = ROUNDS_MOST;
}

#endif
