/* The reference: packet buffers, memory pools and queues in ixy's way, written for this benchmark from its description.
 *
 * A packet buffer is one entry of 2 KiB: a header of 64 bytes, then the data. Each port has a pool of its own: a stack
 * of free buffers. A buffer is allocated for each received packet and freed, by its header, for each sent one.
 * Every transmit descriptor asks for a report (RS), sent ones are cleaned 32 at a time, and the tail registers are
 * written once a batch. It is meant to be fast: whatever that way permits is done.
 */
#pragma once
#include <stdint.h>

enum { BUFFER_SIZE = 2048, HEADER_SIZE = 64, CLEAN_BATCH = 32, MAX_BATCH = 256, TOUCHED = 48 };

struct mempool;

struct packet {
	uint64_t iova; /* of this header */
	struct mempool *pool;
	uint32_t index; /* in the pool */
	uint32_t size;  /* of the data */
	uint8_t headroom[HEADER_SIZE - 24];
	uint8_t data[BUFFER_SIZE - HEADER_SIZE];
};
_Static_assert(sizeof(struct packet) == BUFFER_SIZE, "a buffer is one entry of the pool");

struct mempool {
	uint8_t *base;
	uint32_t entries;
	uint32_t free;
	uint32_t stack[];
};

struct descriptor {
	uint64_t address;
	uint64_t word;
};

struct queue {
	struct descriptor *ring;
	uint32_t *doorbell;
	uint32_t size, tail;
	uint32_t clean; /* transmit: the oldest that is not freed */
	struct packet **packets;
};

struct port {
	struct queue rx, tx;
	struct mempool *pool;
};

struct reference {
	struct port ports[2];
	uint32_t batch, rounds;
};

struct mempool *mempool_new(uint8_t *memory, uint64_t iova, uint32_t entries);
struct packet *packet_alloc(struct mempool *pool);
void packet_free(struct packet *packet);

void receive_start(struct port *port);
uint32_t receive_batch(struct port *port, struct packet **packets, uint32_t wanted);
uint32_t send_batch(struct port *port, struct packet **packets, uint32_t wanted);
