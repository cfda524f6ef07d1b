/* IOMMU_OPTION: how pinned memory is counted, and large pages. */
#include "iommufd.h"

static int iommu;

static const char *option(uint32_t id, uint16_t op, uint32_t object, uint64_t value)
{
	static char text[2][64];
	static unsigned next;
	struct option o = { .option_id = id, .op = op, .object_id = object, .val64 = value };
	const char *ret = answer(COMMAND(iommu, OPTION, &o));
	char *t = text[next++ % 2];

	snprintf(t, sizeof(text[0]), "%s %llu", ret, (unsigned long long)o.val64);
	return t;
}

#define SET 0
#define GET 1

int main(void)
{
	struct option o = { .option_id = 1, .op = GET, .reserved = 1 };
	uint32_t ioas;

	iommu = open_iommu();
	say("rlimit-get", "%s", option(0, GET, 0, 77));
	say("rlimit-set-1", "%s", option(0, SET, 0, 1));
	say("rlimit-get-1", "%s", option(0, GET, 0, 77));
	say("rlimit-set-2", "%s", option(0, SET, 0, 2));
	say("rlimit-object", "%s", option(0, GET, 1, 77));
	say("rlimit-op-2", "%s", option(0, 2, 0, 0));
	ioas = ioas_alloc(iommu);
	say("rlimit-set-with-objects", "%s", option(0, SET, 0, 0));
	say("rlimit-get-with-objects", "%s", option(0, GET, 0, 77));
	say("huge-get", "%s", option(1, GET, ioas, 77));
	say("huge-set-0", "%s", option(1, SET, ioas, 0));
	say("huge-get-0", "%s", option(1, GET, ioas, 77));
	say("huge-set-2", "%s", option(1, SET, ioas, 2));
	say("huge-set-1", "%s", option(1, SET, ioas, 1));
	say("huge-object-0", "%s", option(1, GET, 0, 77));
	say("huge-object-999", "%s", option(1, GET, 999, 77));
	say("huge-op-2", "%s", option(1, 2, ioas, 77));
	say("unknown-option", "%s", option(2, GET, 0, 77));
	o.object_id = ioas;
	say("reserved", "%s", answer(COMMAND(iommu, OPTION, &o)));
	return 0;
}
