/*
 * Attributes of sysfs that keep what is written to them: which values they take, what they show then, what a device
 * does about it, and streams that write them.
 */
#include "client.h"

static char path[256];

static const char *of(const char *bdf, const char *name)
{
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", bdf, name);
	return path;
}

static const char *parameter(const char *name)
{
	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return path;
}

/* What a write to an attribute answers. */
static const char *put(const char *file, const char *value)
{
	int fd = open(file, O_WRONLY | O_TRUNC);
	const char *text;
	long ret;

	if (fd < 0)
		return answer(-1);
	ret = write(fd, value, strlen(value));
	text = ret == (long)strlen(value) ? "all" : answer(ret);
	close(fd);
	return text;
}

/* The line an attribute shows. */
static const char *shown(const char *file)
{
	static char line[256];
	int fd = open(file, O_RDONLY);
	ssize_t n;

	if (fd < 0)
		return answer(-1);
	n = read(fd, line, sizeof(line) - 1);
	close(fd);
	line[n < 0 ? 0 : n] = 0;
	line[strcspn(line, "\n")] = 0;
	return line;
}

/* Writes each of the values, and says what the attribute shows then. */
static void values(const char *name, const char *file, const char *const *list)
{
	char label[96];

	for (; *list; list++) {
		const char *result = put(file, *list);

		snprintf(label, sizeof(label), "%s-\"%.20s\"", name, *list);
		for (char *c = label; *c; c++)
			if (*c == '\n')
				*c = '/';
		say(label, "%s, shows \"%s\"", result, shown(file));
	}
}

#define VALUES(name, file, ...) values(name, file, (const char *const[]){ __VA_ARGS__, NULL })

static void of_a_device(const char *bdf)
{
	VALUES("d3cold_allowed", of(bdf, "d3cold_allowed"), "0\n", "7\n", "x", "-1", "y", " 1", "0x10", "1");
	VALUES("broken_parity_status", of(bdf, "broken_parity_status"), "1\n", "0x20", "x", "18446744073709551616", "0");
	VALUES("numa_node", of(bdf, "numa_node"), "-2", "99999", "x", "", "-1\n");
	VALUES("msi_bus", of(bdf, "msi_bus"), "x", "0", "2", "1");
	say("reset_method-unknown", "%s", put(of(bdf, "reset_method"), "x"));
	say("reset_method-flr-and-unknown", "%s", put(of(bdf, "reset_method"), "flr x"));
	say("reset_method-not-the-device's", "%s", put(of(bdf, "reset_method"), "acpi"));
	VALUES("reset_method", of(bdf, "reset_method"), "flr\n", " flr\n");
	say("uevent-change", "%s", put(of(bdf, "uevent"), "change\n"));
	say("uevent-with-uuid", "%s", put(of(bdf, "uevent"), "add fe4d7c9d-b8c6-4a70-9ef1-3d8a58d18eed A=1"));
	say("uevent-unknown", "%s", put(of(bdf, "uevent"), "changed"));
	say("uevent-number", "%s", put(of(bdf, "uevent"), "1"));
	say("enable-of-a-bound-device", "%s", put(of(bdf, "enable"), "1"));
	say("enable-with-x", "%s", put(of(bdf, "enable"), "x"));
	say("reset-0", "%s", put(of(bdf, "reset"), "0"));
	say("reset-2", "%s", put(of(bdf, "reset"), "2"));
	say("reset-x", "%s", put(of(bdf, "reset"), "x"));
	say("reset-huge", "%s", put(of(bdf, "reset"), "18446744073709551617"));
	say("reset", "%s", put(of(bdf, "reset"), "1\n"));
	say("rescan-x", "%s", put(of(bdf, "rescan"), "x"));
	say("remove-huge", "%s", put(of(bdf, "remove"), "18446744073709551616"));
}

static void of_the_type1_module(void)
{
	static const char limit[] = "vfio_iommu_type1/parameters/dma_entry_limit";

	VALUES("dma_entry_limit", parameter(limit), "x", "-1", "4294967296", "0x10\n", "65535");
	VALUES("allow_unsafe_interrupts", parameter("vfio_iommu_type1/parameters/allow_unsafe_interrupts"), "x", "Y", "off");
}

/* Of an NVMe controller, and of configuration space. */
#define CONTROLLER_CONFIGURATION 0x14
#define COMMAND 0x04
#define INTERRUPT_LINE 0x3c

static uint32_t register_of(int d)
{
	struct vfio_region_info r = { .argsz = sizeof(r), .index = 0 };
	uint32_t value = 0;

	ioctl(d, VFIO_DEVICE_GET_REGION_INFO, &r);
	if (pread(d, &value, 4, r.offset + CONTROLLER_CONFIGURATION) != 4)
		return ~0u;
	return value;
}

static void set_register(int d, uint32_t value)
{
	struct vfio_region_info r = { .argsz = sizeof(r), .index = 0 };

	ioctl(d, VFIO_DEVICE_GET_REGION_INFO, &r);
	say("set-register", "%s", answer(pwrite(d, &value, 4, r.offset + CONTROLLER_CONFIGURATION)));
}

/* One byte of configuration space; negative: read it. */
static int config(int d, uint64_t at, int value)
{
	struct vfio_region_info r = { .argsz = sizeof(r), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	uint8_t byte = value;

	ioctl(d, VFIO_DEVICE_GET_REGION_INFO, &r);
	if (value >= 0)
		return pwrite(d, &byte, 1, r.offset + at);
	return pread(d, &byte, 1, r.offset + at) == 1 ? byte : -1;
}

static const char *vectors(int d, uint32_t index, int count)
{
	char buffer[sizeof(struct vfio_irq_set) + sizeof(int32_t)] = { 0 };
	struct vfio_irq_set *set = (struct vfio_irq_set *)buffer;
	int32_t fd = eventfd(0, EFD_CLOEXEC);
	const char *text;

	set->argsz = sizeof(*set) + (count ? 4 : 0);
	set->flags = VFIO_IRQ_SET_ACTION_TRIGGER | (count ? VFIO_IRQ_SET_DATA_EVENTFD : VFIO_IRQ_SET_DATA_NONE);
	set->index = index;
	set->count = count;
	memcpy(set->data, &fd, sizeof(fd));
	text = answer(ioctl(d, VFIO_DEVICE_SET_IRQS, set));
	close(fd);
	return text;
}

static const char *can_reset(int d)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };

	ioctl(d, VFIO_DEVICE_GET_INFO, &info);
	return info.flags & VFIO_DEVICE_FLAGS_RESET ? "yes" : "no";
}

static void of_an_open_device(const char *bdf)
{
	struct door door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	int d = door.device;

	config(d, COMMAND, 2);
	config(d, INTERRUPT_LINE, 0x77);
	set_register(d, 0x460000);
	say("register-before", "%#x", register_of(d));
	say("reset-while-open", "%s", put(of(bdf, "reset"), "1"));
	say("register-after", "%#x", register_of(d));
	say("interrupt-line-after", "%#x", config(d, INTERRUPT_LINE, -1));
	say("command-after", "%#x", config(d, COMMAND, -1));
	say("no-msi", "%s", put(of(bdf, "msi_bus"), "0"));
	say("msix-without-msi", "%s", vectors(d, VFIO_PCI_MSIX_IRQ_INDEX, 1));
	say("intx-without-msi", "%s", vectors(d, VFIO_PCI_INTX_IRQ_INDEX, 1));
	say("intx-off", "%s", vectors(d, VFIO_PCI_INTX_IRQ_INDEX, 0));
	say("msi-again", "%s", put(of(bdf, "msi_bus"), "1"));
	say("msix-with-msi", "%s", vectors(d, VFIO_PCI_MSIX_IRQ_INDEX, 1));
	say("no-msi-again", "%s", put(of(bdf, "msi_bus"), "0"));
	say("msix-it-has", "%s", vectors(d, VFIO_PCI_MSIX_IRQ_INDEX, 1));
	put(of(bdf, "msi_bus"), "1");
	say("can-reset", "%s", can_reset(d));
	say("reset_method-none", "%s", put(of(bdf, "reset_method"), "\n"));
	say("reset_method-shows", "\"%s\"", shown(of(bdf, "reset_method")));
	say("reset-without-a-method", "%s", put(of(bdf, "reset"), "1"));
	say("can-still-reset", "%s", can_reset(d));
	close_door(&door);
	door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	say("can-reset-when-opened-without", "%s", can_reset(door.device));
	say("reset-when-opened-without", "%s", answer(ioctl(door.device, VFIO_DEVICE_RESET)));
	say("reset_method-default", "%s", put(of(bdf, "reset_method"), "default"));
	say("can-reset-with-it-back", "%s", can_reset(door.device));
	close_door(&door);
	door = open_device(bdf, VFIO_TYPE1v2_IOMMU);
	say("can-reset-when-opened-with", "%s", can_reset(door.device));
	close_door(&door);
}

/* Writes a line through a stream, and says what the attribute shows then. */
static void line(const char *name, FILE *f, const char *text, const char *file)
{
	const char *result;

	fputs(text, f);
	result = fflush(f) ? answer(-1) : "0";
	say(name, "%s, shows \"%s\"", result, shown(file));
}

static void streams(const char *bdf)
{
	const char *file = of(bdf, "d3cold_allowed");
	FILE *f = fopen(file, "w");

	line("fopen-w", f, "0\n", file);
	say("freopen-w", "%s", freopen(file, "w", f) ? "opened" : answer(-1));
	say("freopen-w-shows", "\"%s\"", shown(file));
	line("freopen-w-write", f, "1\n", file);
	line("freopen-w-refused", f, "x\n", file);
	say("freopen-null-w", "%s", freopen(NULL, "w", f) ? "opened" : answer(-1));
	line("freopen-null-w-write", f, "0\n", file);
	say("freopen-w+", "%s", freopen(file, "w+", f) ? "opened" : answer(-1));
	say("freopen-w+-reads", "%d", fgetc(f));
	fclose(f);
	f = fopen("/dev/null", "r");
	say("freopen-absent", "%s", freopen(of(bdf, "absent"), "r", f) ? "opened" : answer(-1));
	f = fopen("/dev/null", "r");
	say("freopen-absent-w", "%s", freopen(of(bdf, "absent"), "w", f) ? "opened" : answer(-1));
	f = fopen("/dev/null", "r");
	say("freopen-r", "%s", freopen(of(bdf, "d3cold_allowed"), "r", f) ? "opened" : answer(-1));
	say("freopen-r-reads", "%c", fgetc(f));
	fclose(f);
	VALUES("d3cold_allowed", of(bdf, "d3cold_allowed"), "1\n");
}

int main(void)
{
	const char *bdf = device("NVME");

	of_a_device(bdf);
	say("edu-reset", "%s", put(of(device("EDU"), "reset"), "1"));
	of_the_type1_module();
	of_an_open_device(bdf);
	streams(bdf);
	return 0;
}
