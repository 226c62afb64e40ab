/* Receive and transmit of one queue pair (82599 datasheet 7.1.6, 7.2.3). */
#include "reference.h"

#define RX_DD 1ull
#define RX_EOP 2ull
#define TX_DD (1ull << 32)
#define TX_COMMAND 0x2b300000ull /* DEXT, RS, IFCS, EOP, data descriptor */

static inline void doorbell(uint32_t *address, uint32_t value)
{
	__atomic_store_n(address, value, __ATOMIC_RELEASE);
}

static inline void give_to_device(struct queue *rx, uint32_t i, struct packet *packet)
{
	rx->packets[i] = packet;
	rx->ring[i].address = packet->iova + HEADER_SIZE;
	rx->ring[i].word = 0;
}

void receive_start(struct port *port)
{
	for (uint32_t i = 0; i < port->rx.size; i++)
		give_to_device(&port->rx, i, packet_alloc(port->pool));
	doorbell(port->rx.doorbell, port->rx.size - 1);
}

uint32_t receive_batch(struct port *port, struct packet **packets, uint32_t wanted)
{
	struct queue *rx = &port->rx;
	uint32_t mask = rx->size - 1, tail = rx->tail, last = tail, count;
	for (count = 0; count < wanted; count++) {
		uint64_t word = __atomic_load_n(&rx->ring[tail].word, __ATOMIC_ACQUIRE);
		if ((word & (RX_DD | RX_EOP)) != (RX_DD | RX_EOP))
			break; /* not there yet (packets of more than one buffer are not part of the comparison) */
		struct packet *fresh = packet_alloc(port->pool);
		if (__builtin_expect(!fresh, 0))
			break;
		struct packet *packet = rx->packets[tail];
		packet->size = word >> 32 & 0xffff;
		packets[count] = packet;
		give_to_device(rx, tail, fresh);
		last = tail;
		tail = (tail + 1) & mask;
	}
	if (count) {
		rx->tail = tail;
		doorbell(rx->doorbell, last);
	}
	return count;
}

static void clean(struct queue *tx)
{
	uint32_t mask = tx->size - 1;
	while (((tx->tail - tx->clean) & mask) >= CLEAN_BATCH) {
		uint32_t last = (tx->clean + CLEAN_BATCH - 1) & mask;
		if (!(__atomic_load_n(&tx->ring[last].word, __ATOMIC_ACQUIRE) & TX_DD))
			break;
		for (uint32_t i = 0; i < CLEAN_BATCH; i++)
			packet_free(tx->packets[(tx->clean + i) & mask]);
		tx->clean = (last + 1) & mask;
	}
}

uint32_t send_batch(struct port *port, struct packet **packets, uint32_t wanted)
{
	struct queue *tx = &port->tx;
	uint32_t mask = tx->size - 1, tail, count;
	clean(tx);
	tail = tx->tail;
	for (count = 0; count < wanted; count++) {
		uint32_t next = (tail + 1) & mask;
		if (next == tx->clean)
			break;
		struct packet *packet = packets[count];
		uint64_t size = packet->size;
		tx->packets[tail] = packet;
		tx->ring[tail].address = packet->iova + HEADER_SIZE;
		tx->ring[tail].word = TX_COMMAND | size | size << 46;
		tail = next;
	}
	tx->tail = tail;
	doorbell(tx->doorbell, tail);
	return count;
}
