/* Backends of services: consistent hashing (fingerprints, Maglev tables, bounded selection), addresses, NAT records.
 *
 * Everything is a pure function of its arguments: equal input gives equal output on every machine and in every run.
 * Backends are told apart by 64-bit fingerprints; the caller makes them of whatever names a backend (ch_hash).
 * Nothing is allocated but by ch_maglev, and nothing is read or written outside of what is given. */
#ifndef CONTIV_HASHING_H
#define CONTIV_HASHING_H

#include <stddef.h>
#include <stdint.h>

/* Bytes of one backend in NAT44-ED's messages: address 4, port 2, weight 1, VRF 4, all in network order
 * (plugins/nat/nat44-ed/nat44_ed.api, nat44_lb_addr_port). */
#define CH_RECORD 11

/* A 64-bit fingerprint of len bytes under a seed. Not for secrets. */
uint64_t ch_hash (const void *data, size_t len, uint64_t seed);

/* Fills table, of size entries, with indexes into backends (Eisenbud and others, "Maglev", NSDI 2016, section 3.4).
 *
 * Each backend owns a share of the entries in proportion to its weight; 0 gets none. size must be a prime larger than
 * the number of backends. Which backend an entry belongs to does not depend on the order that they are given in.
 * Returns 0, -1 when there is no backend with a weight or size is not larger than n, -2 without memory. */
int ch_maglev (const uint64_t *backends, const uint32_t *weights, size_t n, uint32_t *table, uint32_t size);

/* Whether n is a prime. */
int ch_is_prime (uint32_t n);

/* The keep elements of n that this seed prefers (rendezvous hashing), as ascending indexes. An element that leaves
 * changes the choice only by itself and its successor. scratch has room for 2 n. Returns how many there are. */
size_t ch_select (const uint64_t *elements, size_t n, uint64_t seed, size_t keep, uint64_t *scratch, uint32_t *chosen);

/* Reads an IPv4 address as it is written: four decimal numbers without leading zeros. Returns 0, -1 for other text. */
int ch_read_ipv4 (const char *text, size_t len, uint32_t *address);

/* Sorts count records and removes doubles of an address and port; the heavier weight stays. Returns what is left. */
size_t ch_unique_records (uint8_t *records, size_t count, uint64_t *scratch);

/* Appends to out a record for each of n IPv4 addresses whose flags, masked, equal want. Those with a bit of heavy get
 * weight, others 1. Returns how many records were written. */
size_t ch_pack_records (const uint8_t *addresses, const uint8_t *flags, size_t n, uint8_t mask, uint8_t want,
			uint8_t heavy, uint8_t weight, uint16_t port, uint8_t *out);

#endif
