/* Memory of huge pages, twice: what becomes of it where the machine has none. */
#include "client.h"

int main(void)
{
	for (unsigned i = 0; i < 2; i++) {
		char *p = mmap(NULL, MIB(4), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

		say("map", "%s", p == MAP_FAILED ? error_name(errno) : "mapped");
		if (p != MAP_FAILED)
			say("aligned", "%d", !((uintptr_t)p % MIB(2)) && !(p[MIB(4) - 1] = 0));
	}
	return 0;
}
