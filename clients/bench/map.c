/*
 * MAP_DMA and UNMAP_DMA of 4 KiB with many mappings alive: `map ROUNDS LIVE...`. For each LIVE, that many mappings lie at
 * random places of a window twice as large; a pair takes one away and makes another. Every mapping has its own
 * address in the client: one file of 64 MiB mapped again and again.
 */
#include "bench.h"

#define FILE_BYTES MIB(64)
#define BASE (1ull << 32)
#define BATCH 4096

static struct door door;
static unsigned char *memory;
static uint64_t live, state = 42;
static uint32_t *slots;

static uint64_t below(uint64_t bound)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (state >> 33) % bound;
}

static void swap(uint64_t a, uint64_t b)
{
	uint32_t t = slots[a];

	slots[a] = slots[b];
	slots[b] = t;
}

static void insert(uint32_t slot)
{
	if (map(door.container, BASE + slot * PAGE, memory + slot * PAGE, PAGE, READ | WRITE))
		die("mapping slot %u", slot);
}

static void take(uint32_t slot)
{
	uint64_t bytes;

	if (unmap(door.container, BASE + slot * PAGE, PAGE, &bytes) || bytes != PAGE)
		die("unmapping slot %u", slot);
}

/* As many distinct client pages as slots. */
static void make_memory(uint64_t bytes)
{
	int fd = memfd_create("pages", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, FILE_BYTES))
		die("memfd");
	memory = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		die("reserving %llu bytes", (unsigned long long)bytes);
	for (uint64_t at = 0; at < bytes; at += FILE_BYTES) {
		uint64_t piece = bytes - at < FILE_BYTES ? bytes - at : FILE_BYTES;

		if (mmap(memory + at, piece, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE, fd, 0) ==
		    MAP_FAILED)
			die("mmap");
	}
	close(fd);
}

/* Nanoseconds for a pair. */
static double churn(unsigned pairs)
{
	static uint32_t out[BATCH], in[BATCH];
	double spent = 0;

	for (unsigned left = pairs; left;) {
		unsigned n = left < BATCH ? left : BATCH;
		double start;

		for (unsigned i = 0; i < n; i++) {
			uint64_t a = below(live), b = live + below(live);

			out[i] = slots[a];
			in[i] = slots[b];
			swap(a, b);
		}
		start = cpu_ns();
		for (unsigned i = 0; i < n; i++) {
			take(out[i]);
			insert(in[i]);
		}
		spent += cpu_ns() - start;
		left -= n;
	}
	return spent / pairs;
}

/* The part of it that is faulting pages in, which a kernel has to do as well. */
static double populate(unsigned calls)
{
	double start = cpu_ns();

	for (unsigned i = 0; i < calls; i++)
		madvise(memory + below(2 * live) * PAGE, PAGE, 23 /* MADV_POPULATE_WRITE */);
	return (cpu_ns() - start) / calls;
}

static void measure(void)
{
	double pair[ROUNDS_MOST], fault[ROUNDS_MOST];
	char name[32];

	make_memory(2 * live * PAGE);
	slots = malloc(2 * live * sizeof(*slots));
	if (!slots)
		die("slots");
	for (uint64_t i = 0; i < 2 * live; i++)
		slots[i] = i;
	for (uint64_t i = 2 * live - 1; i > 0; i--)
		swap(i, below(i + 1));
	for (uint64_t i = 0; i < live; i++)
		insert(slots[i]);
	churn(BATCH);
	for (unsigned round = 0; round < rounds; round++) {
		pair[round] = churn(20000);
		fault[round] = populate(20000);
	}
	snprintf(name, sizeof(name), "pair/%llu", (unsigned long long)live);
	say(name, "%.1f", median(pair, rounds));
	snprintf(name, sizeof(name), "populate/%llu", (unsigned long long)live);
	say(name, "%.1f", median(fault, rounds));
	for (uint64_t i = 0; i < live; i++)
		take(slots[i]);
	munmap(memory, 2 * live * PAGE);
	free(slots);
}

int main(int argc, char **argv)
{
	arguments(argc, argv);
	door = open_door(device("NVME"), VFIO_TYPE1v2_IOMMU);
	for (int i = 2; i < argc; i++) {
		live = strtoull(argv[i], NULL, 0);
		measure();
	}
	close_door(&door);
	return 0;
}
