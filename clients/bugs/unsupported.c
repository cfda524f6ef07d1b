/*
 * No bug: a program that asks for what swiommu does not have. Each call fails as on a kernel without it, and is named.
 */
#include "../iommufd.h"

#define NEST_PARENT 1

int main(int argc, char **argv)
{
	const char *bdf = argc > 1 ? argv[1] : "0000:00:04.0";
	int iommu = open("/dev/iommu", O_RDWR);
	uint32_t dev, table;

	if (iommu < 0)
		die("/dev/iommu");
	open_bound(bdf, iommu, &dev);
	if (hwpt_alloc(iommu, dev, ioas_alloc(iommu), NEST_PARENT, &table) != -1 || errno != EOPNOTSUPP)
		die("a parent of nested page tables");
	return 0;
}
