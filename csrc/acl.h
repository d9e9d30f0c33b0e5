/* Access lists: sets of addresses and ports, what is allowed as a map from addresses to ports, and tables of rules.
 *
 * In: ranges from the caller, or rules from VPP. Out: canonical sets and maps (acl_ranges.h), rules in the layout of
 * vl_api_acl_rule_t (VPP plugins/acl/acl_types.api), 48 bytes each, and what VPP's ACL plugin would say of a packet.
 * Knows nothing of Kubernetes or Python. Functions that take memory return -1 when there is none. */
#ifndef CONTIV_ACL_H
#define CONTIV_ACL_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 acl_u128;

static inline unsigned
acl_ctz128 (acl_u128 key)
{
  uint64_t low = (uint64_t) key;
  return (unsigned) (low ? __builtin_ctzll (low) : 64 + __builtin_ctzll ((uint64_t) (key >> 64)));
}

static inline unsigned
acl_log2_128 (acl_u128 key)
{
  uint64_t high = (uint64_t) (key >> 64);
  return (unsigned) (high ? 127 - __builtin_clzll (high) : 63 - __builtin_clzll ((uint64_t) key));
}

/* Pairs of labels, numbered from 1 in order of appearance. All zeros is the empty one. */
typedef struct
{
  uint32_t (*at)[2]; /* at[number - 1] */
  uint32_t *slots;   /* open hash of numbers, 0 free */
  uint32_t n, cap;   /* cap slots, a power of two; at has room for half */
  uint32_t last[3];  /* the pair asked for last, and its number */
} acl_pairs;

/* The number of a pair; 0 without memory. */
uint32_t acl_pair_slow (acl_pairs *pairs, uint32_t a, uint32_t b);
void acl_pairs_free (acl_pairs *pairs);

static inline uint32_t
acl_pair (acl_pairs *pairs, uint32_t a, uint32_t b)
{
  if (pairs->last[2] && pairs->last[0] == a && pairs->last[1] == b)
    return pairs->last[2];
  return acl_pair_slow (pairs, a, b);
}

enum acl_operation
{
  ACL_UNITE,
  ACL_INTERSECT,
  ACL_SUBTRACT,
};

#define AR_KEY uint32_t
#define AR(name) acl4_##name
#define AR_MAX UINT32_MAX
#define AR_CTZ(key) ((unsigned) __builtin_ctz (key))
#define AR_LOG2(key) ((unsigned) (31 - __builtin_clz (key)))
#include "acl_ranges.h"

#define AR_KEY acl_u128
#define AR(name) acl6_##name
#define AR_MAX (~(acl_u128) 0)
#define AR_CTZ(key) acl_ctz128 (key)
#define AR_LOG2(key) acl_log2_128 (key)
#include "acl_ranges.h"

/* Addresses of both families. Memory is its own: acl_set_free. */
typedef struct
{
  acl4_range *r4;
  acl6_range *r6;
  size_t n4, n6;
} acl_set;

int acl_set_combine (enum acl_operation operation, const acl_set *a, const acl_set *b, acl_set *out);
/* All of n sets together. */
int acl_set_gather (const acl_set *const *sets, size_t n, acl_set *out);
/* Canonical form of the ranges in a set, whatever their order. */
int acl_set_settle (acl_set *set);
int acl_set_equal (const acl_set *a, const acl_set *b);
uint64_t acl_set_hash (const acl_set *set);
/* How many prefixes cover it exactly. */
size_t acl_set_prefixes (const acl_set *set);
/* Writes them, as vl_api_prefix_t does: family (0, 1), address, length; 18 bytes each. */
enum { ACL_PREFIX = 18 };
void acl_set_write (const acl_set *set, uint8_t *out);
/* Adds a prefix that need not fit in order; acl_set_settle when all are there. Addresses are in network order here and
 * below, IPv4 in the first four bytes; host bits do not count. room is how many ranges of each family fit. */
int acl_set_push (acl_set *set, size_t room[2], int is_ip6, const uint8_t *address, unsigned length);
/* Whether all of a prefix is in the set. */
int acl_set_has (const acl_set *set, int is_ip6, const uint8_t *address, unsigned length);
/* Whether b is a subset of a; whether they share nothing. */
int acl_set_covers (const acl_set *a, const acl_set *b);
int acl_set_disjoint (const acl_set *a, const acl_set *b);
void acl_set_free (acl_set *set);

/* A map from addresses to labels. */
typedef struct
{
  acl4_range *r4;
  acl6_range *r6;
  uint32_t *l4, *l6;
  size_t n4, n6;
} acl_map;

/* The whole set under label 1. */
int acl_map_of (const acl_set *set, acl_map *out);
int acl_map_overlay (const acl_map *a, const acl_map *b, int both, acl_pairs *pairs, acl_map *out);
void acl_map_relabel (acl_map *map, const uint32_t *kind, uint32_t *number, uint32_t *next);
int acl_map_select (const acl_map *map, const uint8_t *kept, acl_set *out);
/* The label of an address, 0 for none. */
uint32_t acl_map_at (const acl_map *map, int is_ip6, const uint8_t *address);
int acl_map_equal (const acl_map *a, const acl_map *b);
uint64_t acl_map_hash (const acl_map *map);
void acl_map_free (acl_map *map);

/* Ports are ranges of protocol << 16 | port, in the same algebra as IPv4. All keys: any protocol. A set that is not all
 * keys has none of protocol 0, because in a rule that means any. */
enum { ACL_PORTS_LAST = 0xffffff };

typedef struct
{
  const acl4_range *at;
  size_t n;
} acl_ports;

enum { ACL_RULE = 48 };

/* Numbers in network order. */
static inline uint32_t
acl_load16 (const uint8_t *at)
{
  return (uint32_t) at[0] << 8 | at[1];
}

static inline uint32_t
acl_load4 (const uint8_t *at)
{
  return acl_load16 (at) << 16 | acl_load16 (at + 2);
}

static inline acl_u128
acl_load6 (const uint8_t *at)
{
  uint64_t high = (uint64_t) acl_load4 (at) << 32 | acl_load4 (at + 4);
  uint64_t low = (uint64_t) acl_load4 (at + 8) << 32 | acl_load4 (at + 12);
  return (acl_u128) high << 64 | low;
}

static inline void
acl_store16 (uint8_t *at, uint32_t value)
{
  at[0] = (uint8_t) (value >> 8), at[1] = (uint8_t) value;
}

static inline void
acl_store4 (uint8_t *at, uint32_t value)
{
  acl_store16 (at, value >> 16);
  acl_store16 (at + 2, value);
}

static inline void
acl_store6 (uint8_t *at, acl_u128 value)
{
  for (int i = 0; i < 16; i += 4)
    acl_store4 (at + i, (uint32_t) (value >> (96 - 8 * i)));
}

static inline uint32_t
acl_mask4 (unsigned length)
{
  return length ? ~acl4_host_mask (32 - length) : 0;
}

static inline acl_u128
acl_mask6 (unsigned length)
{
  return length ? ~acl6_host_mask (128 - length) : 0;
}

enum acl_action
{
  ACL_DENY,
  ACL_PERMIT,
  ACL_REFLECT,
};

/* Protocols with ports in VPP's eyes; ICMP has type and code, in its own family (plugins/acl/public_inlines.h). */
enum { ACL_ICMP = 1, ACL_TCP = 6, ACL_UDP = 17, ACL_ICMP6 = 58 };
int acl_reads_ports (unsigned protocol, int is_ip6);

/* What is in ports as VPP can tell it: a protocol whose ports it does not read is taken whole or not at all. Ports 1 to
 * 65535 are the whole. Otherwise wider says whether it is taken. Room: n; returns the number of ranges. */
size_t acl_ports_seen (acl_ports ports, int is_ip6, int wider, acl4_range *out);

/* Lines of one action: what is allowed on one side, fixed addresses on the other. */
typedef struct
{
  uint8_t action;
  uint8_t destination; /* the map speaks of destinations, otherwise of sources */
  const acl_set *own;  /* of the other side; NULL is any */
  const acl_map *map;
  const acl_ports *ports; /* of label i: ports[i - 1] */
  uint32_t n_ports;
} acl_block;

/* Rules under construction; free (wire) is the caller's. */
typedef struct
{
  uint8_t *wire;
  size_t n, cap;
  uint8_t closed[2]; /* a rule that takes everything of the family stands: nothing behind it can decide */
} acl_rules;

/* Appends the lines of a block. 0, or -1 without memory. */
int acl_render (const acl_block *block, acl_rules *out);
/* Drops rules that look at the same packets as an earlier one, from line first on. 0, or -1 without memory. */
int acl_drop_repeated (acl_rules *rules, size_t first);

enum acl_fault
{
  ACL_FINE,
  ACL_BAD_ACTION,
  ACL_BAD_FAMILY,
  ACL_MIXED_FAMILIES,
  ACL_BAD_LENGTH,
  ACL_HOST_BITS,
  ACL_BAD_PORTS,
};

/* What VPP would refuse of n rules (plugins/acl/acl.c, acl_add_list): ACL_FINE, or the fault of rule *bad. Bytes of an
 * address that its family does not have are cleared. */
enum acl_fault acl_check (uint8_t *wire, size_t n, size_t *bad);

/* BLAKE2b-128 (RFC 7693) over the rules in their compact form: for each, three bytes that tell (little-endian, bit i
 * for bytes 2i and 2i+1) where it differs from the one before it, the first from zeros, then those bytes. */
void acl_fingerprint (const uint8_t *wire, size_t n, uint8_t out[16]);

enum { ACL_FRAGMENT = 1, ACL_TRUNCATED = 2 };

/* 40 bytes, as numpy sees them too. */
typedef struct
{
  uint8_t version, protocol, flags, tcp_flags;
  uint16_t source_port, destination_port;
  uint8_t source[16], destination[16];
} acl_packet;

/* The first rule that matches, or -1. Ports of protocols that VPP does not read are taken for 0. */
int64_t acl_match (const uint8_t *wire, size_t n, const acl_packet *packet);
/* The same for many packets, one line each. 0, or -1 without memory. */
int acl_match_many (const uint8_t *wire, size_t n, const acl_packet *packets, size_t n_packets, int32_t *lines);

/* 64 bits of any bytes, for hash tables. */
uint64_t acl_hash (const void *data, size_t size, uint64_t seed);

#endif
