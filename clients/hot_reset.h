/* What the client programs about hot reset share. */
#ifndef HOT_RESET_H
#define HOT_RESET_H

#include "client.h"

struct info {
	struct vfio_pci_hot_reset_info i;
	struct vfio_pci_dependent_device devices[16];
};

/* The role of an address, so that addresses stay out of the lines. */
static inline const char *role_of(const struct vfio_pci_dependent_device *v)
{
	static const char *const roles[] = { "EDU", "NVME", "NIC", "MF0", "MF1", "BR0", "BR1", "IGB" };
	char bdf[16];

	snprintf(bdf, sizeof(bdf), "%04x:%02x:%02x.%x", v->segment, v->bus, v->devfn >> 3, v->devfn & 7);
	for (unsigned i = 0; i < COUNT(roles); i++)
		if (!strcmp(device(roles[i]), bdf))
			return roles[i];
	return "another";
}

#endif
