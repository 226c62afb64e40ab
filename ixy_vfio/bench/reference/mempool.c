/* Memory pools. */
#include "reference.h"
#include <stdlib.h>

struct mempool *mempool_new(uint8_t *memory, uint64_t iova, uint32_t entries)
{
	struct mempool *pool = malloc(sizeof *pool + entries * sizeof *pool->stack);
	if (!pool)
		return 0;
	pool->base = memory;
	pool->entries = pool->free = entries;
	for (uint32_t i = 0; i < entries; i++) {
		struct packet *packet = (struct packet *)(memory + (uint64_t)i * BUFFER_SIZE);
		packet->iova = iova + (uint64_t)i * BUFFER_SIZE;
		packet->pool = pool;
		packet->index = i;
		packet->size = 0;
		pool->stack[entries - 1 - i] = i;
	}
	return pool;
}

struct packet *packet_alloc(struct mempool *pool)
{
	if (__builtin_expect(pool->free == 0, 0))
		return 0;
	return (struct packet *)(pool->base + (uint64_t)pool->stack[--pool->free] * BUFFER_SIZE);
}

void packet_free(struct packet *packet)
{
	struct mempool *pool = packet->pool;
	pool->stack[pool->free++] = packet->index;
}
