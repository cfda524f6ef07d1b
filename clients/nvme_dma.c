/*
 * DMA through the IOMMU with an NVMe controller: queues, identify data, blocks written and read back with both PRPs and
 * a PRP list, and commands whose data may not be reached.
 */
#include "nvme.h"

#define DATA MIB(4)

static struct nvme n;
static unsigned char *m;

static int patterned(const unsigned char *p, unsigned char seed, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		if (p[i] != (unsigned char)(seed + i * 13 + (i >> 9)))
			return 0;
	return 1;
}

static void pattern(unsigned char *p, unsigned char seed, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = seed + i * 13 + (i >> 9);
}

static const char *yes(int v)
{
	return v ? "yes" : "no";
}

static const char *status(int s)
{
	static char text[16];

	if (s < 0)
		return "no completion";
	snprintf(text, sizeof(text), "%#x", s);
	return text;
}

static void identify(void)
{
	struct nvme_command c = nvme_command(6, 0, DATA, 0);

	c.dword[0] = 1;
	say("identify-controller", "%s", status(nvme_run(&n, &n.admin, c, NULL)));
	say("submission-entry-size", "%#x", m[512]);
	say("completion-entry-size", "%#x", m[513]);
	c.namespace = 1;
	c.dword[0] = 0;
	say("identify-namespace", "%s", status(nvme_run(&n, &n.admin, c, NULL)));
	say("namespace-bytes", "%llu", (unsigned long long)(*(uint64_t *)m << m[128 + 4 * (m[26] & 15) + 2]));
	c.dword[0] = 2;
	c.namespace = 0;
	say("active-namespaces", "%s", status(nvme_run(&n, &n.admin, c, NULL)));
	say("first-namespace", "%u", *(uint32_t *)m);
}

static void round_trips(void)
{
	uint64_t *list = (uint64_t *)(m + 15 * PAGE);

	pattern(m, 1, PAGE);
	say("write-one-block", "%s", status(nvme_io(&n, 1, 0, 1, DATA, 0)));
	memset(m, 0, PAGE);
	say("read-one-block", "%s", status(nvme_io(&n, 2, 0, 1, DATA, 0)));
	say("one-block-is-right", "%s", yes(patterned(m, 1, 512)));
	pattern(m, 2, 2 * PAGE);
	say("write-two-pages", "%s", status(nvme_io(&n, 1, 64, 16, DATA, DATA + PAGE)));
	memset(m, 0, 2 * PAGE);
	say("read-two-pages", "%s", status(nvme_io(&n, 2, 64, 16, DATA, DATA + PAGE)));
	say("two-pages-are-right", "%s", yes(patterned(m, 2, 2 * PAGE)));
	pattern(m, 3, 8 * PAGE);
	for (unsigned i = 0; i < 7; i++)
		list[i] = DATA + (i + 1) * PAGE;
	say("write-by-list", "%s", status(nvme_io(&n, 1, 256, 64, DATA, DATA + 15 * PAGE)));
	memset(m, 0, 8 * PAGE);
	say("read-by-list", "%s", status(nvme_io(&n, 2, 256, 64, DATA, DATA + 15 * PAGE)));
	say("list-is-right", "%s", yes(patterned(m, 3, 8 * PAGE)));
	pattern(m + 256, 4, 512);
	say("write-with-offset", "%s", status(nvme_io(&n, 1, 512, 1, DATA + 256, 0)));
	memset(m, 0, PAGE);
	say("read-with-offset", "%s", status(nvme_io(&n, 2, 512, 1, DATA + 1024, 0)));
	say("offset-is-right", "%s", yes(patterned(m + 1024, 4, 512)));
	say("flush", "%s", status(nvme_run(&n, &n.io, nvme_command(0, 1, 0, 0), NULL)));
	say("compare-equal", "%s", status(nvme_io(&n, 5, 512, 1, DATA + 1024, 0)));
	m[1024] ^= 1;
	say("compare-different", "%s", status(nvme_io(&n, 5, 512, 1, DATA + 1024, 0)));
	say("write-zeroes", "%s", status(nvme_io(&n, 8, 512, 1, 0, 0)));
	say("read-zeroes", "%s", status(nvme_io(&n, 2, 512, 1, DATA, 0)));
	say("zeroes-are-right", "%s", yes(!m[0] && !memcmp(m, m + 1, 511)));
}

static void refused(void)
{
	struct nvme_command c = nvme_command(2, 7, DATA, 0);

	say("read-beyond-end", "%s", status(nvme_io(&n, 2, 16 << 11, 1, DATA, 0)));
	say("read-across-end", "%s", status(nvme_io(&n, 2, (16 << 11) - 1, 2, DATA, 0)));
	say("no-such-namespace", "%s", status(nvme_run(&n, &n.io, c, NULL)));
	say("no-such-command", "%s", status(nvme_run(&n, &n.io, nvme_command(0x7f, 1, DATA, 0), NULL)));
	say("no-such-admin-command", "%s", status(nvme_run(&n, &n.admin, nvme_command(0x7f, 0, DATA, 0), NULL)));
}

/* A blocked transfer: whether the command failed, and that memory is as it was. */
static void blocked(void)
{
	int s;

	memset(m + 8 * PAGE, 0xcc, PAGE);
	s = nvme_io(&n, 2, 0, 1, MIB(64), 0);
	say("read-to-unmapped-fails", "%s", yes(s > 0));
	s = nvme_io(&n, 2, 64, 16, DATA, MIB(64));
	say("read-to-half-unmapped-fails", "%s", yes(s > 0));
	if (map(n.container, MIB(32), m + 8 * PAGE, PAGE, READ))
		die("map");
	s = nvme_io(&n, 2, 0, 1, MIB(32), 0);
	say("read-to-read-only-fails", "%s", yes(s > 0));
	say("read-only-memory-is-intact", "%s", yes(m[8 * PAGE] == 0xcc && !memcmp(m + 8 * PAGE, m + 8 * PAGE + 1, PAGE - 1)));
	say("write-from-read-only", "%s", status(nvme_io(&n, 1, 1024, 1, MIB(32), 0)));
	if (unmap(n.container, MIB(32), PAGE, NULL))
		die("unmap");
	s = nvme_io(&n, 1, 1024, 1, MIB(32), 0);
	say("write-after-unmap-fails", "%s", yes(s > 0));
	say("next-command-works", "%s", status(nvme_io(&n, 2, 0, 1, DATA, 0)));
	say("its-data-is-right", "%s", yes(patterned(m, 1, 512)));
}

/* The queues keep working over many rounds of their entries. */
static void many(void)
{
	unsigned wrong = 0;

	for (unsigned i = 0; i < 200; i++) {
		pattern(m, i, 512);
		wrong += nvme_io(&n, 1, 2048 + i, 1, DATA, 0) != 0;
	}
	for (unsigned i = 0; i < 200; i++) {
		wrong += nvme_io(&n, 2, 2048 + i, 1, DATA, 0) != 0;
		wrong += !patterned(m, i, 512);
	}
	say("wrong-of-400-commands", "%u", wrong);
}

int main(void)
{
	for (int type = 1; type <= 3; type += 2) {
		struct door door = open_device(device("NVME"), type);

		snprintf(prefix, sizeof(prefix), type == 1 ? "v1-" : "v2-");
		say("starts", "%s", nvme_start(&n, &door) ? "no" : "yes");
		m = pages(16 * PAGE);
		say("map-data", "%s", answer(map(door.container, DATA, m, 16 * PAGE, READ | WRITE)));
		identify();
		say("io-queues", "%s", status(nvme_io_queues(&n)));
		round_trips();
		refused();
		blocked();
		many();
		nvme_stop(&n);
		close_door(&door);
	}
	return 0;
}
