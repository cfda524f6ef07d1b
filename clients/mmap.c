/*
 * mmap of the device descriptor: which regions, which parts of them, with which protections, and that a register
 * behaves the same through the mapping as through pread and pwrite, and is gone while the device decodes no memory or
 * sleeps.
 */
#include <setjmp.h>
#include <signal.h>

#include "client.h"

#define LOW_POWER_ENTRY 3
#define LOW_POWER_EXIT 5

static int d;

static const char *tried_mmap(uint64_t size, int prot, int flags, uint64_t offset)
{
	void *p = mmap(NULL, size, prot, flags, d, offset);

	if (p == MAP_FAILED)
		return answer(-1);
	munmap(p, size);
	return "mapped";
}

static void bar_0(void)
{
	struct vfio_region_info r = region(d, 0);
	uint64_t at = r.offset, size = r.size;

	say("whole", "%s", tried_mmap(size, 3, MAP_SHARED, at));
	say("whole-read-only", "%s", tried_mmap(size, PROT_READ, MAP_SHARED, at));
	say("whole-write-only", "%s", tried_mmap(size, PROT_WRITE, MAP_SHARED, at));
	say("whole-no-access", "%s", tried_mmap(size, PROT_NONE, MAP_SHARED, at));
	say("executable", "%s", tried_mmap(size, PROT_READ | PROT_EXEC, MAP_SHARED, at));
	say("private", "%s", tried_mmap(size, 3, MAP_PRIVATE, at));
	say("private-read-only", "%s", tried_mmap(size, PROT_READ, MAP_PRIVATE, at));
	say("shared-validate", "%s", tried_mmap(size, 3, MAP_SHARED_VALIDATE, at));
	say("populate", "%s", tried_mmap(size, 3, MAP_SHARED | MAP_POPULATE, at));
	say("first-page", "%s", tried_mmap(PAGE, 3, MAP_SHARED, at));
	say("last-page", "%s", tried_mmap(PAGE, 3, MAP_SHARED, at + size - PAGE));
	say("one-byte", "%s", tried_mmap(1, 3, MAP_SHARED, at));
	say("unaligned-offset", "%s", tried_mmap(PAGE, 3, MAP_SHARED, at + 512));
	say("size-0", "%s", tried_mmap(0, 3, MAP_SHARED, at));
	say("one-page-too-long", "%s", tried_mmap(size + PAGE, 3, MAP_SHARED, at));
	say("across-end", "%s", tried_mmap(2 * PAGE, 3, MAP_SHARED, at + size - PAGE));
	say("beyond", "%s", tried_mmap(PAGE, 3, MAP_SHARED, at + size));
}

static void other_regions(int all)
{
	char name[64];

	for (unsigned i = 1; i <= 10; i++) {
		if (!all && i < 6)
			continue;
		snprintf(name, sizeof(name), "region-%u", i);
		say(name, "%s", tried_mmap(PAGE, 3, MAP_SHARED, (uint64_t)i << 40));
	}
}

static void place(void)
{
	struct vfio_region_info r = region(d, 0);
	char *room = mmap(NULL, r.size + MIB(2), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = mmap(room + PAGE, r.size, 3, MAP_SHARED | MAP_FIXED, d, r.offset);

	say("fixed-over-reservation", "%s", p == room + PAGE ? "there" : "elsewhere");
	p = mmap(room + PAGE, PAGE, 3, MAP_SHARED | MAP_FIXED_NOREPLACE, d, r.offset);
	say("fixed-noreplace-over-itself", "%s", p == MAP_FAILED ? answer(-1) : "mapped");
	say("madvise-hugepage", "%s", answer(madvise(room + PAGE, r.size, MADV_HUGEPAGE)));
	munmap(room, r.size + MIB(2));
}

/* edu: identification at 0, the live-check register at 4 gives back the complement. */
static void edu_registers(void)
{
	struct vfio_region_info r = region(d, 0);
	volatile uint32_t *m = mmap(NULL, r.size, 3, MAP_SHARED, d, r.offset), *n;
	uint32_t v = 0;
	uint16_t command = 2;

	if (m == MAP_FAILED)
		die("mmap");
	pwrite(d, &command, 2, region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4);
	say("identification", "0x%08x", m[0]);
	m[1] = 0x12345678;
	say("live-check", "0x%08x", m[1]);
	pread(d, &v, 4, r.offset + 4);
	say("live-check-by-pread", "0x%08x", v);
	v = 0xff;
	pwrite(d, &v, 4, r.offset + 4);
	say("live-check-after-pwrite", "0x%08x", m[1]);
	n = mmap(NULL, PAGE, 3, MAP_SHARED, d, r.offset);
	say("second-mapping", "0x%08x", n[1]);
	n[1] = 0;
	munmap((void *)n, PAGE);
	say("after-second-mapping", "0x%08x", m[1]);
	m[2] = 5;
	for (unsigned i = 0; i < 1000000 && m[8] & 1; i++)
		;
	say("factorial-of-5", "%u", m[2]);
	m[1] = 0x0f0f0f0f;
	say("read-modify-write", "0x%08x", m[1] ^= 0xff);
	say("after-read-modify-write", "0x%08x", m[1]);
	say("identification-is-read-only", "0x%08x", (m[0] = 0, m[0]));
	munmap((void *)m, r.size);
	pread(d, &v, 4, r.offset + 4);
	say("after-munmap", "0x%08x", v);
}

static sigjmp_buf back;
static siginfo_t told;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	(void)context;
	told = *info;
	siglongjmp(back, signal);
}

/* What a load, or a store of `value`, of a mapped register comes to. */
static const char *touched(volatile uint32_t *at, const uint32_t *value)
{
	static char text[64];
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO }, bus, segv;
	int signal;

	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	signal = sigsetjmp(back, 1);
	if (signal)
		snprintf(text, sizeof(text), "%s code %d %s", signal == SIGBUS ? "SIGBUS" : "SIGSEGV", told.si_code,
			 told.si_addr == (void *)at ? "at the register" : "elsewhere");
	else if (value)
		*at = *value, strcpy(text, "stored");
	else
		snprintf(text, sizeof(text), "0x%08x", *at);
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return text;
}

static void low_power(int feature)
{
	struct vfio_device_feature ask = { .argsz = sizeof(ask), .flags = 1u << 17 | feature };

	say(feature == LOW_POWER_ENTRY ? "low-power" : "high-power", "%s", answer(ioctl(d, VFIO_DEVICE_FEATURE, &ask)));
}

static void without_memory(void)
{
	uint64_t config = region(d, VFIO_PCI_CONFIG_REGION_INDEX).offset;
	struct vfio_region_info r = region(d, 0);
	uint32_t value = 0x12345678;
	uint16_t on = 2, off = 0;
	volatile uint32_t *m;

	pwrite(d, &on, 2, config + 4);
	m = mmap(NULL, r.size, 3, MAP_SHARED, d, r.offset);
	say("memory-on-store", "%s", touched(m + 1, &value));
	say("memory-on-load", "%s", touched(m + 1, NULL));
	pwrite(d, &off, 2, config + 4);
	say("memory-off-load", "%s", touched(m + 1, NULL));
	say("memory-off-store", "%s", touched(m + 1, &value));
	say("memory-off-mmap", "%s", tried_mmap(PAGE, 3, MAP_SHARED, r.offset));
	pwrite(d, &on, 2, config + 4);
	say("memory-on-again", "%s", touched(m + 1, NULL));
	low_power(LOW_POWER_ENTRY);
	say("low-power-load", "%s", touched(m + 1, NULL));
	say("low-power-store", "%s", touched(m + 1, &value));
	low_power(LOW_POWER_EXIT);
	say("high-power-load", "%s", touched(m + 1, NULL));
	munmap((void *)m, r.size);
}

int main(void)
{
	static const char *const roles[] = { "EDU", "NVME", "NIC" };
	static const char *const names[] = { "edu-", "nvme-", "nic-" };

	for (unsigned i = 0; i < COUNT(roles); i++) {
		struct door door = open_device(device(roles[i]), VFIO_TYPE1v2_IOMMU);

		strcpy(prefix, names[i]);
		d = door.device;
		bar_0();
		other_regions(i == 0);
		place();
		if (i == 0)
			edu_registers(), without_memory();
		close_door(&door);
	}
	return 0;
}
