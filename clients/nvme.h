/*
 * A small NVMe driver: reset, admin queue, one I/O queue pair, polled. NVM Express 1.4, sections 3 (registers), 4
 * (queues), 5 (admin commands) and 6 (I/O commands). All queues lie in one mapping at NVME_IOVA.
 */
#ifndef NVME_H
#define NVME_H

#include "client.h"

#define NVME_IOVA MIB(1)
#define NVME_ENTRIES 32

struct nvme_command {
	uint32_t dword0, namespace;
	uint64_t reserved, metadata, prp1, prp2;
	uint32_t dword[6];
};

struct nvme_completion {
	uint32_t result, reserved;
	uint16_t head, queue, id, status;
};

struct nvme_queue {
	struct nvme_command *commands;
	volatile struct nvme_completion *completions;
	volatile uint32_t *tail_bell, *head_bell;
	unsigned tail, head, phase;
};

struct nvme {
	int container, device;
	volatile unsigned char *bar;
	uint64_t bar_size;
	unsigned char *memory;
	struct nvme_queue admin, io;
	uint16_t next_id;
};

static inline volatile uint32_t *nvme_reg(struct nvme *n, unsigned at)
{
	return (volatile uint32_t *)(n->bar + at);
}

static inline int nvme_ready(struct nvme *n, unsigned want)
{
	for (unsigned i = 0; i < 5000; i++) {
		if ((*nvme_reg(n, 0x1c) & 1) == want)
			return 0;
		usleep(1000);
	}
	return -1;
}

static inline void nvme_queue(struct nvme *n, struct nvme_queue *q, unsigned id, unsigned page)
{
	unsigned stride = 4u << (*nvme_reg(n, 4) & 0xf);

	memset(n->memory + page * PAGE, 0, 2 * PAGE);
	q->commands = (void *)(n->memory + page * PAGE);
	q->completions = (void *)(n->memory + (page + 1) * PAGE);
	q->tail_bell = (volatile uint32_t *)(n->bar + 0x1000 + 2 * id * stride);
	q->head_bell = (volatile uint32_t *)(n->bar + 0x1000 + (2 * id + 1) * stride);
	q->tail = q->head = 0;
	q->phase = 1;
}

/* Submits one command and gives its id. */
static inline uint16_t nvme_submit(struct nvme *n, struct nvme_queue *q, struct nvme_command c)
{
	uint16_t id = ++n->next_id;

	c.dword0 |= (uint32_t)id << 16;
	q->commands[q->tail] = c;
	q->tail = (q->tail + 1) % NVME_ENTRIES;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	*q->tail_bell = q->tail;
	return id;
}

/* Whether the queue's next completion has come. */
static inline int nvme_done(const struct nvme_queue *q)
{
	return (q->completions[q->head].status & 1) == q->phase;
}

/* Waits for the completion of a command: its status (type and code), or -1 when none came. */
static inline int nvme_collect(struct nvme_queue *q, uint16_t id, uint32_t *result)
{
	volatile struct nvme_completion *done = &q->completions[q->head];

	for (unsigned i = 0; !nvme_done(q); i++) {
		if (i == 5000)
			return -1;
		usleep(1000);
	}
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (result)
		*result = done->result;
	int status = done->id == id ? done->status >> 1 & 0x7ff : -2;
	q->head = (q->head + 1) % NVME_ENTRIES;
	if (!q->head)
		q->phase ^= 1;
	*q->head_bell = q->head;
	return status;
}

/* Runs one command: its status, or -1. */
static inline int nvme_run(struct nvme *n, struct nvme_queue *q, struct nvme_command c, uint32_t *result)
{
	return nvme_collect(q, nvme_submit(n, q, c), result);
}

/* Brings the controller up with its admin queue; 0 or -1. */
static inline int nvme_start(struct nvme *n, const struct door *door)
{
	struct vfio_region_info r = region(door->device, 0);
	uint16_t command = 6;

	memset(n, 0, sizeof(*n));
	n->container = door->container;
	n->device = door->device;
	n->bar_size = r.size;
	n->bar = mmap(NULL, r.size, PROT_READ | PROT_WRITE, MAP_SHARED, door->device, r.offset);
	if (n->bar == MAP_FAILED)
		die("mmap of the controller's registers");
	if (pwrite(door->device, &command, 2, region(door->device, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4) != 2)
		die("command register");
	n->memory = pages(4 * PAGE);
	if (map(n->container, NVME_IOVA, n->memory, 4 * PAGE, READ | WRITE))
		die("mapping the queues");
	*nvme_reg(n, 0x14) = 0;
	if (nvme_ready(n, 0))
		return -1;
	nvme_queue(n, &n->admin, 0, 0);
	*nvme_reg(n, 0x24) = (NVME_ENTRIES - 1) << 16 | (NVME_ENTRIES - 1);
	*(volatile uint64_t *)(n->bar + 0x28) = NVME_IOVA;
	*(volatile uint64_t *)(n->bar + 0x30) = NVME_IOVA + PAGE;
	*nvme_reg(n, 0x14) = 4 << 20 | 6 << 16 | 1;
	return nvme_ready(n, 1);
}

static inline struct nvme_command nvme_command(unsigned opcode, uint32_t namespace, uint64_t prp1, uint64_t prp2)
{
	return (struct nvme_command){ .dword0 = opcode, .namespace = namespace, .prp1 = prp1, .prp2 = prp2 };
}

/* Creates the I/O queue pair 1: the status of the first command that failed, or 0. */
static inline int nvme_io_queues(struct nvme *n)
{
	struct nvme_command c = nvme_command(5, 0, NVME_IOVA + 3 * PAGE, 0);
	int status;

	nvme_queue(n, &n->io, 1, 2);
	c.dword[0] = (NVME_ENTRIES - 1) << 16 | 1;
	c.dword[1] = 1;
	status = nvme_run(n, &n->admin, c, NULL);
	if (status)
		return status;
	c = nvme_command(1, 0, NVME_IOVA + 2 * PAGE, 0);
	c.dword[0] = (NVME_ENTRIES - 1) << 16 | 1;
	c.dword[1] = 1 << 16 | 1;
	return nvme_run(n, &n->admin, c, NULL);
}

/* READ (2), WRITE (1), COMPARE (5) of `blocks` blocks. */
static inline int nvme_io(struct nvme *n, unsigned opcode, uint64_t block, unsigned blocks, uint64_t prp1, uint64_t prp2)
{
	struct nvme_command c = nvme_command(opcode, 1, prp1, prp2);

	c.dword[0] = block;
	c.dword[1] = block >> 32;
	c.dword[2] = blocks - 1;
	return nvme_run(n, &n->io, c, NULL);
}

static inline void nvme_stop(struct nvme *n)
{
	*nvme_reg(n, 0x14) = 0;
	nvme_ready(n, 0);
	munmap((void *)n->bar, n->bar_size);
}

#endif
