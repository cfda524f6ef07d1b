/*
 * A driver for QEMU's educational device, as its documentation describes it: registers through the mapped BAR, DMA in
 * both directions between memory and a 4 KiB buffer at 0x40000 of the device's own addresses.
 */
#ifndef EDU_H
#define EDU_H

#include "client.h"

#define EDU_BUFFER 0x40000ull
#define EDU_SRC 0x80
#define EDU_DST 0x88
#define EDU_COUNT 0x90
#define EDU_COMMAND 0x98
#define EDU_RUN 1u
#define EDU_TO_MEMORY 2u
#define EDU_RAISE 4u

static volatile unsigned char *edu_bar;
static int edu_device;

static inline void edu_command_register(uint16_t v)
{
	if (pwrite(edu_device, &v, 2, region(edu_device, VFIO_PCI_CONFIG_REGION_INDEX).offset + 4) != 2)
		die("command register");
}

static inline void edu_open(struct door *door)
{
	struct vfio_region_info r;

	edu_device = door->device;
	r = region(edu_device, 0);
	edu_bar = mmap(NULL, r.size, PROT_READ | PROT_WRITE, MAP_SHARED, edu_device, r.offset);
	if (edu_bar == MAP_FAILED)
		die("mmap of edu's registers");
	edu_command_register(6);
}

static inline void edu_set(unsigned reg, uint64_t v)
{
	*(volatile uint64_t *)(edu_bar + reg) = v;
}

static inline uint64_t edu_get(unsigned reg)
{
	return *(volatile uint64_t *)(edu_bar + reg);
}

/* Starts one transfer and waits for its end: 0, or -1 when it never ended. */
static inline int edu_transfer(uint64_t from, uint64_t to, uint64_t count, uint64_t flags)
{
	edu_set(EDU_SRC, from);
	edu_set(EDU_DST, to);
	edu_set(EDU_COUNT, count);
	edu_set(EDU_COMMAND, EDU_RUN | flags);
	for (unsigned i = 0; i < 5000; i++) {
		if (!(edu_get(EDU_COMMAND) & EDU_RUN))
			return 0;
		usleep(1000);
	}
	return -1;
}

static inline int edu_from_memory(uint64_t iova, uint64_t offset, uint64_t count)
{
	return edu_transfer(iova, EDU_BUFFER + offset, count, 0);
}

static inline int edu_to_memory(uint64_t iova, uint64_t offset, uint64_t count)
{
	return edu_transfer(EDU_BUFFER + offset, iova, count, EDU_TO_MEMORY);
}

#endif
