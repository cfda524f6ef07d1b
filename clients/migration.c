/*
 * A controller that migrates, as a virtual machine monitor drives it: `migration save FILE` runs it, logs what it writes,
 * and saves its state in the middle of its work; `migration restore FILE` goes on with another controller, in a process
 * of its own. FILE.memory is the memory that goes with the state.
 */
#include "nvme.h"

#define DATA_IOVA MIB(2)
#define DATA_PAGES 32
#define BLOCK 512u
#define PER_PAGE (PAGE / BLOCK)

#define MIGRATION 1
#define MIG_DEVICE_STATE 2
#define LOGGING_START 6
#define LOGGING_STOP 7
#define LOGGING_REPORT 8
#define MIG_DATA_SIZE 9
#define GET (1u << 16)
#define SET (1u << 17)
#define PROBE (1u << 18)
#define PRECOPY_INFO _IO(';', 121)

enum { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P };

/* What goes with the state: the driver, its queues, and its data. */
static struct {
	unsigned char queues[4 * PAGE], data[DATA_PAGES * PAGE];
	struct nvme nvme;
	uint16_t first, second;
} *machine;

static struct door door;

static int feature(int device, uint32_t flags, void *data, uint32_t bytes)
{
	struct { uint32_t argsz, flags; unsigned char data[64]; } ask = { 8 + bytes, flags, { 0 } };
	int ret;

	memcpy(ask.data, data, bytes);
	ret = ioctl(device, VFIO_DEVICE_FEATURE, &ask);
	memcpy(data, ask.data, bytes);
	return ret;
}

static unsigned state(void)
{
	uint32_t data[2] = { 77, 77 };

	if (feature(door.device, GET | MIG_DEVICE_STATE, data, sizeof(data)) || data[1] != -1u)
		die("GET MIG_DEVICE_STATE");
	return data[0];
}

/* Goes to a state: 0 or -1; `*stream` is the descriptor of a transfer that begins, or -1. */
static int go(unsigned to, int *stream)
{
	int32_t data[2] = { to, 77 };
	int ret = feature(door.device, SET | MIG_DEVICE_STATE, data, sizeof(data));

	if (stream)
		*stream = data[1];
	return ret;
}

static int transfer(unsigned to)
{
	int stream;

	if (go(to, &stream) || stream < 0)
		die("no transfer");
	return stream;
}

/* The pattern that block `block` has in generation `seed`. */
static void fill(unsigned char *to, unsigned block, unsigned seed)
{
	for (unsigned i = 0; i < BLOCK; i++)
		to[i] = (block * 31 + i * 7 + seed) ^ i >> 4;
}

static int holds(unsigned page, unsigned block, unsigned blocks, unsigned seed)
{
	unsigned char want[BLOCK];

	for (unsigned i = 0; i < blocks; i++) {
		fill(want, block + i, seed);
		if (memcmp(machine->data + page * PAGE + i * BLOCK, want, BLOCK))
			return 0;
	}
	return 1;
}

/* The memory at addresses that the queues and the commands name. */
static void map_memory(void)
{
	if (map(door.container, DATA_IOVA, machine->data, sizeof(machine->data), READ | WRITE))
		die("map");
}

static struct nvme_command io_command(unsigned opcode, unsigned block, unsigned blocks, unsigned page)
{
	struct nvme_command c = nvme_command(opcode, 1, DATA_IOVA + page * PAGE, DATA_IOVA + (page + 1) * PAGE);

	c.dword[0] = block;
	c.dword[2] = blocks - 1;
	return c;
}

static int io(unsigned opcode, unsigned block, unsigned blocks, unsigned page)
{
	return nvme_run(&machine->nvme, &machine->nvme.io, io_command(opcode, block, blocks, page), NULL);
}

#define READ_BLOCKS 2
#define WRITE_BLOCKS 1

static void abilities(void)
{
	uint64_t flags = 0, bytes = 0;
	struct door other = open_device(device("EDU"), VFIO_TYPE1v2_IOMMU);

	say("of-one-that-stays", "%s", answer(feature(other.device, GET | MIGRATION, &flags, 8)));
	close_door(&other);
	say("features", "%s", answer(feature(door.device, GET | MIGRATION, &flags, 8)));
	say("flags", "%#llx", (unsigned long long)flags);
	say("features-short", "%s", answer(feature(door.device, GET | MIGRATION, &flags, 4)));
	say("features-set", "%s", answer(feature(door.device, SET | MIGRATION, &flags, 8)));
	say("features-probe", "%s", answer(feature(door.device, PROBE | GET | MIGRATION, NULL, 0)));
	say("size", "%s", answer(feature(door.device, GET | MIG_DATA_SIZE, &bytes, 8)));
	say("size-is-known", "%d", bytes > 0);
	say("state", "%u", state());
}

static void wrong_ways(void)
{
	static const unsigned to[] = { ERROR, PRE_COPY_P2P + 1, ~0u };
	uint32_t data[2] = { RUNNING_P2P, 0 };
	int stream;

	for (unsigned i = 0; i < COUNT(to); i++)
		say("wrong-state", "%s", answer(go(to[i], NULL)));
	say("get-and-set", "%s", answer(feature(door.device, GET | SET | MIG_DEVICE_STATE, data, 8)));
	say("short", "%s", answer(feature(door.device, SET | MIG_DEVICE_STATE, data, 4)));
	say("still", "%u", state());
	stream = transfer(STOP_COPY);
	say("stop-copy", "%u", state());
	say("stop-copy-to-pre-copy", "%s", answer(go(PRE_COPY, NULL)));
	say("write-what-is-read", "%s", answer(write(stream, data, 8)));
	say("seek", "%s", answer(lseek(stream, 0, SEEK_SET)));
	say("precopy-info-of-stop-copy", "%s", answer(ioctl(stream, PRECOPY_INFO, &(uint64_t[3]){ 24 })));
	say("back", "%s", answer(go(RUNNING, NULL)));
	say("read-after", "%s", answer(read(stream, data, 8)));
	close(stream);
}

/* The device's own log of what it writes. */
static void logging(void)
{
	struct { uint64_t page_size; uint32_t count, reserved; uint64_t ranges; } start = { PAGE, 1, 0, 0 };
	struct { uint64_t iova, length, page_size, bitmap; } report = { DATA_IOVA, DATA_PAGES * PAGE, PAGE, 0 };
	uint64_t range[2] = { DATA_IOVA, DATA_PAGES * PAGE }, bits = 0;

	start.ranges = (uintptr_t)range;
	report.bitmap = (uintptr_t)&bits;
	say("report-before", "%s", answer(feature(door.device, GET | LOGGING_REPORT, &report, sizeof(report))));
	say("stop-before", "%s", answer(feature(door.device, SET | LOGGING_STOP, NULL, 0)));
	start.count = 0;
	say("start-nothing", "%s", answer(feature(door.device, SET | LOGGING_START, &start, sizeof(start))));
	start.count = 1;
	say("start", "%s", answer(feature(door.device, SET | LOGGING_START, &start, sizeof(start))));
	say("page-size", "%llu", (unsigned long long)start.page_size);
	say("start-again", "%s", answer(feature(door.device, SET | LOGGING_START, &start, sizeof(start))));
	say("read", "%d", io(READ_BLOCKS, 0, 2 * PER_PAGE, 4));
	say("read", "%d", io(READ_BLOCKS, 0, 1, 9));
	say("write", "%d", io(WRITE_BLOCKS, 300, PER_PAGE, 12));
	say("report", "%s", answer(feature(door.device, GET | LOGGING_REPORT, &report, sizeof(report))));
	say("pages", "%#llx", (unsigned long long)bits);
	bits = 0;
	say("report-again", "%s", answer(feature(door.device, GET | LOGGING_REPORT, &report, sizeof(report))));
	say("pages-again", "%#llx", (unsigned long long)bits);
	say("stop", "%s", answer(feature(door.device, SET | LOGGING_STOP, NULL, 0)));
	say("report-after", "%s", answer(feature(door.device, GET | LOGGING_REPORT, &report, sizeof(report))));
}

static void put(const char *name, const char *end, const void *bytes, size_t count)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s%s", name, end);
	f = fopen(path, "w");
	if (!f || fwrite(bytes, 1, count, f) != count || fclose(f))
		die("%s", path);
}

static size_t take(const char *name, const char *end, void *bytes, size_t most)
{
	char path[PATH_MAX];
	size_t count;
	FILE *f;

	snprintf(path, sizeof(path), "%s%s", name, end);
	f = fopen(path, "r");
	if (!f)
		die("%s", path);
	count = fread(bytes, 1, most, f);
	fclose(f);
	return count;
}

/* Reads what there is of a state, in odd pieces, until read gives something else. */
static size_t drain(int stream, unsigned char *to, const char *name)
{
	size_t all = 0;
	ssize_t n;

	while ((n = read(stream, to + all, 333)) > 0)
		all += n;
	say(name, "%s", answer(n));
	return all;
}

#define MOST KIB(256)

static void save(const char *file)
{
	static unsigned char saved[MOST];
	uint64_t info[3] = { 24 }, initial;
	struct nvme *n = &machine->nvme;
	int stream;
	size_t bytes;

	if (nvme_start(n, &door) || nvme_io_queues(n))
		die("the controller does not start");
	map_memory();
	for (unsigned block = 0; block < 16 * PER_PAGE; block++)
		fill(machine->data + block * BLOCK, block, 1);
	for (unsigned page = 0; page < 16; page += 2)
		if (io(WRITE_BLOCKS, page * PER_PAGE, 2 * PER_PAGE, page))
			die("write");
	abilities();
	wrong_ways();
	say("after-wrong-ways", "%d", io(READ_BLOCKS, 0, 2 * PER_PAGE, 20) == 0 && holds(20, 0, 2 * PER_PAGE, 1));
	logging();

	stream = transfer(PRE_COPY);
	say("precopy-info", "%s", answer(ioctl(stream, PRECOPY_INFO, info)));
	initial = info[1];
	say("initial", "%d", initial > 0 && !info[2]);
	bytes = drain(stream, saved, "nothing-more-yet");
	say("as-much-as-was-said", "%d", bytes == initial);
	for (unsigned block = 0; block < 2 * PER_PAGE; block++)
		fill(machine->data + block * BLOCK, block, 2);
	say("works-on", "%d", io(WRITE_BLOCKS, 0, 2 * PER_PAGE, 0));
	say("precopy-info-again", "%s", answer(ioctl(stream, PRECOPY_INFO, info)));
	say("dirty", "%d", !info[1] && info[2] > 0);
	/* From here on nothing is executed: one command that writes to the medium, one that reads what the first wrote. */
	say("quiet", "%s", answer(go(PRE_COPY_P2P, NULL)));
	for (unsigned block = 0; block < 2 * PER_PAGE; block++)
		fill(machine->data + 2 * PAGE + block * BLOCK, 200 + block, 3);
	memset(machine->data + 24 * PAGE, 0xee, 2 * PAGE);
	machine->first = nvme_submit(n, &n->io, io_command(WRITE_BLOCKS, 200, 2 * PER_PAGE, 2));
	machine->second = nvme_submit(n, &n->io, io_command(READ_BLOCKS, 200, 2 * PER_PAGE, 24));
	say("waits", "%d", !nvme_done(&n->io) && machine->data[24 * PAGE] == 0xee);
	say("stop-copy", "%s", answer(go(STOP_COPY, NULL)));
	bytes += drain(stream, saved + bytes, "end");
	say("precopy-info-at-the-end", "%s", answer(ioctl(stream, PRECOPY_INFO, info)));
	say("stopped", "%d", !nvme_done(&n->io));
	put(file, "", saved, bytes);
	memcpy(machine->queues, n->memory, sizeof(machine->queues));
	put(file, ".memory", machine, sizeof(*machine));
	close(stream);
	say("stop", "%s", answer(go(STOP, NULL)));
}

static void resume(int stream, const unsigned char *saved, size_t bytes)
{
	for (size_t at = 0; at < bytes;) {
		ssize_t n = write(stream, saved + at, bytes - at < 501 ? bytes - at : 501);

		if (n <= 0)
			die("write of the state");
		at += n;
	}
	close(stream);
}

/* The driver's own pointers, to where registers and memory are in this process. */
static void move_driver(struct nvme *n)
{
	struct nvme_queue *queues[] = { &n->admin, &n->io };
	struct vfio_region_info r = region(door.device, 0);
	volatile unsigned char *bar = mmap(NULL, r.size, PROT_READ | PROT_WRITE, MAP_SHARED, door.device, r.offset);

	if (bar == MAP_FAILED)
		die("mmap");
	for (unsigned i = 0; i < 2; i++) {
		struct nvme_queue *q = queues[i];

		q->commands = (void *)(machine->queues + ((unsigned char *)q->commands - n->memory));
		q->completions = (void *)(machine->queues + ((unsigned char *)q->completions - n->memory));
		q->tail_bell = (volatile uint32_t *)(bar + ((volatile unsigned char *)q->tail_bell - n->bar));
		q->head_bell = (volatile uint32_t *)(bar + ((volatile unsigned char *)q->head_bell - n->bar));
	}
	n->bar = bar;
	n->memory = machine->queues;
	n->container = door.container;
	n->device = door.device;
}

static void restore(const char *file)
{
	static unsigned char saved[MOST];
	size_t bytes = take(file, "", saved, sizeof(saved));
	struct nvme *n = &machine->nvme;
	uint16_t command = 6;
	int good = 1, stream;

	if (take(file, ".memory", machine, sizeof(*machine)) != sizeof(*machine))
		die("the memory");
	map_memory();
	if (map(door.container, NVME_IOVA, machine->queues, sizeof(machine->queues), READ | WRITE))
		die("map");
	if (pwrite(door.device, &command, 2, region(door.device, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4) != 2)
		die("command register");

	stream = transfer(RESUMING);
	resume(stream, saved, bytes - 1);
	say("without-its-end", "%s", answer(go(RUNNING, NULL)));
	say("error", "%u", state());
	say("from-error", "%s", answer(go(RUNNING, NULL)));
	say("reset", "%s", answer(ioctl(door.device, VFIO_DEVICE_RESET)));
	say("running", "%u", state());
	if (pwrite(door.device, &command, 2, region(door.device, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4) != 2)
		die("command register");

	stream = transfer(RESUMING);
	say("read-what-is-written", "%s", answer(read(stream, &command, 1)));
	resume(stream, saved, bytes);
	say("quiet", "%s", answer(go(RUNNING_P2P, NULL)));
	move_driver(n);
	say("ready", "%u", *nvme_reg(n, 0x1c) & 1);
	say("still-waits", "%d", !nvme_done(&n->io));
	say("runs", "%s", answer(go(RUNNING, NULL)));
	say("first", "%d", nvme_collect(&n->io, machine->first, NULL));
	say("second", "%d", nvme_collect(&n->io, machine->second, NULL));
	say("in-flight-data", "%d", holds(24, 200, 2 * PER_PAGE, 3));
	for (unsigned page = 0; page < 16; page += 2) {
		int seed = page ? 1 : 2;

		good &= !io(READ_BLOCKS, page * PER_PAGE, 2 * PER_PAGE, 28);
		good &= holds(28, page * PER_PAGE, 2 * PER_PAGE, seed);
	}
	say("medium", "%d", good);
	say("admin-queue", "%d", nvme_run(n, &n->admin, nvme_command(6, 1, DATA_IOVA, 0), NULL));
	nvme_stop(n);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 98;
	machine = pages(sizeof(*machine));
	door = open_device(device("NVME"), VFIO_TYPE1v2_IOMMU);
	if (!strcmp(argv[1], "save"))
		save(argv[2]);
	else
		restore(argv[2]);
	return 0;
}
