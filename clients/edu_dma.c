/*
 * DMA through the IOMMU with edu: data in both directions, and what does not arrive - at an address never mapped, at one
 * unmapped before, against the mapping's direction, with bus mastering off. The kernel's result of a blocked transfer is
 * what the client sees: memory as it was.
 */
#include "edu.h"

#define IOVA MIB(1)

static struct door door;
static unsigned char *m;

static void fill(unsigned char *p, unsigned seed)
{
	for (unsigned i = 0; i < PAGE; i++)
		p[i] = (i * 7 + seed) ^ (i >> 8);
}

static int is_filled(const unsigned char *p, unsigned seed, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++)
		if (p[i] != (unsigned char)((i * 7 + seed) ^ (i >> 8)))
			return 0;
	return 1;
}

static int is_all(const unsigned char *p, unsigned char v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (p[i] != v)
			return 0;
	return 1;
}

static const char *yes(int v)
{
	return v ? "yes" : "no";
}

static void round_trip(void)
{
	unsigned char *in = m, *out = m + PAGE;

	fill(in, 1);
	memset(out, 0xee, PAGE);
	say("map-in", "%s", answer(map(door.container, IOVA, in, PAGE, READ)));
	say("map-out", "%s", answer(map(door.container, IOVA + PAGE, out, PAGE, WRITE)));
	say("to-device", "%d", edu_from_memory(IOVA, 0, PAGE));
	say("to-memory", "%d", edu_to_memory(IOVA + PAGE, 0, PAGE));
	say("data-arrived", "%s", yes(is_filled(out, 1, 0, PAGE)));
	memset(out, 0xee, PAGE);
	say("part-to-memory", "%d", edu_to_memory(IOVA + PAGE + 100, 100, 50));
	say("only-that-part", "%s", yes(is_all(out, 0xee, 100) && is_filled(out, 1, 100, 150) &&
					is_all(out + 150, 0xee, PAGE - 150)));
}

static void blocked(void)
{
	unsigned char *in = m, *out = m + PAGE;

	memset(out, 0xee, PAGE);
	say("write-to-read-only-map", "%d", edu_to_memory(IOVA, 0, 64));
	say("read-only-memory-is-intact", "%s", yes(is_filled(in, 1, 0, PAGE)));
	say("write-to-unmapped", "%d", edu_to_memory(IOVA + 16 * PAGE, 0, 64));
	say("write-works-afterwards", "%d", edu_to_memory(IOVA + PAGE, 0, 64));
	say("data-arrived-afterwards", "%s", yes(is_filled(out, 1, 0, 64)));
	memset(out, 0xee, PAGE);
	say("unmap-out", "%s", answer(unmap(door.container, IOVA + PAGE, PAGE, NULL)));
	say("write-after-unmap", "%d", edu_to_memory(IOVA + PAGE, 0, 64));
	say("memory-intact-after-unmap", "%s", yes(is_all(out, 0xee, PAGE)));
	say("map-out-again", "%s", answer(map(door.container, IOVA + PAGE, out, PAGE, READ | WRITE)));
	edu_command_register(2);
	say("write-without-bus-master", "%d", edu_to_memory(IOVA + PAGE, 0, 64));
	say("memory-intact-without-bus-master", "%s", yes(is_all(out, 0xee, PAGE)));
	edu_command_register(6);
	say("write-with-bus-master", "%d", edu_to_memory(IOVA + PAGE, 0, 64));
	say("data-arrived-with-bus-master", "%s", yes(is_filled(out, 1, 0, 64)));
}

/* A mapping of several pages reaches each; and remapping an IOVA reaches the new memory. */
static void several_pages(void)
{
	unsigned char *p = m + 4 * PAGE;

	say("map-four", "%s", answer(map(door.container, IOVA + MIB(1), p, 4 * PAGE, READ | WRITE)));
	fill(m, 9);
	edu_from_memory(IOVA, 0, PAGE);
	for (unsigned i = 0; i < 4; i++)
		edu_to_memory(IOVA + MIB(1) + i * PAGE, 0, PAGE);
	say("all-four-pages", "%s", yes(is_filled(p, 9, 0, PAGE) && is_filled(p + PAGE, 9, 0, PAGE) &&
					is_filled(p + 2 * PAGE, 9, 0, PAGE) && is_filled(p + 3 * PAGE, 9, 0, PAGE)));
	memset(p, 0, 4 * PAGE);
	say("across-a-page-border", "%d", edu_to_memory(IOVA + MIB(1) + PAGE - 32, 0, 64));
	say("both-sides-written", "%s", yes(is_filled(p + PAGE - 32, 9, 0, 64)));
	say("unmap-four", "%s", answer(unmap(door.container, IOVA + MIB(1), 4 * PAGE, NULL)));
	say("map-other-memory-there", "%s", answer(map(door.container, IOVA + MIB(1), m + 8 * PAGE, PAGE, READ | WRITE)));
	memset(p, 0, PAGE);
	edu_to_memory(IOVA + MIB(1), 0, PAGE);
	say("new-memory-is-written", "%s", yes(is_filled(m + 8 * PAGE, 9, 0, PAGE)));
	say("old-memory-is-not", "%s", yes(is_all(p, 0, PAGE)));
}

/* What the client's process does to the memory meanwhile. */
static void kinds(void)
{
	int fd = memfd_create("client", 0);
	unsigned char *a, *b;

	if (fd < 0 || ftruncate(fd, PAGE))
		die("memfd_create");
	a = mmap(NULL, PAGE, 3, MAP_SHARED, fd, 0);
	b = mmap(NULL, PAGE, 3, MAP_SHARED, fd, 0);
	say("map-memfd", "%s", answer(map(door.container, MIB(8), a, PAGE, READ | WRITE)));
	edu_to_memory(MIB(8), 0, PAGE);
	say("memfd-seen-through-both", "%s", yes(is_filled(a, 9, 0, PAGE) && is_filled(b, 9, 0, PAGE)));
	munmap(a, PAGE);
	memset(b, 0, PAGE);
	edu_to_memory(MIB(8), 0, PAGE);
	say("memfd-after-munmap-of-first", "%s", yes(is_filled(b, 9, 0, PAGE)));

	a = pages(PAGE);
	say("map-anonymous", "%s", answer(map(door.container, MIB(9), a, PAGE, READ | WRITE)));
	mprotect(a, PAGE, PROT_READ);
	edu_to_memory(MIB(9), 0, PAGE);
	say("written-although-now-read-only", "%s", yes(is_filled(a, 9, 0, PAGE)));
	munmap(a, PAGE);
	b = mmap(a, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	memset(b, 0xcc, PAGE);
	say("write-to-munmapped", "%d", edu_to_memory(MIB(9), 0, PAGE));
	say("new-memory-at-that-place-intact", "%s", b == a ? yes(is_all(b, 0xcc, PAGE)) : "elsewhere");
	memset(m, 0, PAGE);
	say("read-of-munmapped", "%d", edu_from_memory(MIB(9), 0, PAGE));
	edu_to_memory(IOVA + PAGE, 0, PAGE);
	say("munmapped-page-kept-its-data", "%s", yes(is_filled(m + PAGE, 9, 0, PAGE)));
}

int main(void)
{
	for (int type = 1; type <= 3; type += 2) {
		door = open_device(device("EDU"), type);
		snprintf(prefix, sizeof(prefix), type == 1 ? "v1-" : "v2-");
		m = pages(16 * PAGE);
		edu_open(&door);
		round_trip();
		blocked();
		several_pages();
		kinds();
		munmap((void *)edu_bar, region(edu_device, 0).size);
		close_door(&door);
	}
	return 0;
}
