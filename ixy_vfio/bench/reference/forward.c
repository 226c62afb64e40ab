/* The forwarder: receive, touch a byte of each packet, send, free what was not sent. */
#include "reference.h"
#include <stdlib.h>

#define API __attribute__((visibility("default"))) /* the rest is hidden, so that LTO may inline across files */

static uint32_t forward(struct port *source, struct port *target, uint32_t batch)
{
	struct packet *packets[MAX_BATCH];
	uint32_t count = receive_batch(source, packets, batch);
	if (count) {
		for (uint32_t i = 0; i < count; i++)
			packets[i]->data[TOUCHED]++;
		uint32_t sent = send_batch(target, packets, count);
		for (uint32_t i = sent; i < count; i++)
			packet_free(packets[i]);
	}
	return count;
}

/* What is timed: `rounds` batches in both directions. */
API int64_t reference_forward(struct reference *reference)
{
	int64_t packets = 0;
	struct port *ports = reference->ports;
	for (uint32_t i = 0; i < reference->rounds; i++) {
		packets += forward(&ports[0], &ports[1], reference->batch);
		packets += forward(&ports[1], &ports[0], reference->batch);
	}
	return packets;
}

/* Calls a driver's part, whoever compiled it, by a name that Callgrind can know. Not a tail call. */
static int64_t (*driver)(uint64_t state);

API void reference_driver(int64_t (*function)(uint64_t state))
{
	driver = function;
}

API int64_t reference_call(uint64_t state)
{
	volatile int64_t packets = driver(state);
	return packets;
}

API void reference_configure(struct reference *reference, uint32_t batch, uint32_t rounds)
{
	reference->batch = batch;
	reference->rounds = rounds;
}

API struct reference *reference_new(void)
{
	struct reference *reference = 0;
	return posix_memalign((void **)&reference, 64, sizeof *reference) ? 0 : reference;
}

static void queue_start(struct queue *queue, void *ring, uint32_t *tail, uint32_t size)
{
	*queue = (struct queue){ .ring = ring, .doorbell = tail, .size = size };
	queue->packets = calloc(size, sizeof *queue->packets);
}

/* `ring` has room for the descriptors of receive, then transmit. */
API void reference_port(struct reference *reference, uint32_t number, uint8_t *ring, uint32_t size, uint32_t *rdt,
		    uint32_t *tdt, uint8_t *buffers, uint64_t iova, uint32_t entries)
{
	struct port *port = &reference->ports[number];
	queue_start(&port->rx, ring, rdt, size);
	queue_start(&port->tx, ring + size * sizeof(struct descriptor), tdt, size);
	port->pool = mempool_new(buffers, iova, entries);
	receive_start(port);
}

API void reference_free(struct reference *reference)
{
	for (int i = 0; i < 2; i++) {
		free(reference->ports[i].rx.packets);
		free(reference->ports[i].tx.packets);
		free(reference->ports[i].pool);
	}
	free(reference);
}
