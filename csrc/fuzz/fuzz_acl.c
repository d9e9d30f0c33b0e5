/* Access lists from the input. As rules: what VPP takes is matched the same way singly and in bulk, with and without
 * repeated lines. As sets and ports: the map, the algebra and the rules made of it agree on every address. */
#include "../acl.h"

enum { KEYS = 64, SETS = 6, RULES = 64 };

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

typedef struct
{
  const uint8_t *at;
  size_t left;
} input;

static uint8_t
next (input *in)
{
  if (in->left == 0)
    return 0;
  in->left--;
  return *in->at++;
}

static void
must (int condition)
{
  if (!condition)
    abort ();
}

/* ---- rules ---- */

static void
as_rules (input *in)
{
  acl_packet packet = { 0 };
  uint8_t *raw = (uint8_t *) &packet, *wire = malloc (RULES * ACL_RULE);
  size_t n, bad = 0;
  for (size_t i = 0; i < sizeof packet; i++)
    raw[i] = next (in);
  packet.version = packet.version & 1 ? 6 : 4;
  n = in->left / ACL_RULE < RULES ? in->left / ACL_RULE : RULES;
  if (!wire)
    return;
  memcpy (wire, in->at, n * ACL_RULE);
  if (acl_check (wire, n, &bad) == ACL_FINE)
    {
      uint8_t name[16];
      int32_t line = -2;
      int64_t found = acl_match (wire, n, &packet);
      must (acl_match_many (wire, n, &packet, 1, &line) == 0 && line == found);
      acl_fingerprint (wire, n, name);
      uint8_t action = found < 0 ? 0xff : wire[found * ACL_RULE];
      acl_rules rules = { .wire = wire, .n = n, .cap = n };
      must (acl_drop_repeated (&rules, n ? 1 : 0) == 0 && rules.n <= n);
      found = acl_match (wire, rules.n, &packet);
      must (action == (found < 0 ? 0xff : wire[found * ACL_RULE]));
    }
  else
    must (bad < n);
  free (wire);
}

/* ---- sets ---- */

/* Addresses are one of two windows of 64: at the beginning and at the end of a family. */
static void
window_address (uint8_t *out, int is_ip6, int high, unsigned key)
{
  memset (out, high ? 0xff : 0, 16);
  out[is_ip6 ? 15 : 3] = (uint8_t) (high ? 0xc0 + key : key);
}

typedef struct
{
  acl_set set;
  uint64_t mask[4];
} model;

static void
read_set (input *in, model *m)
{
  size_t room[2] = { 0 };
  *m = (model){ 0 };
  for (unsigned n = next (in) % 8; n > 0; n--)
    {
      unsigned where = next (in) & 3, key = next (in) % KEYS, bits = next (in) % 7;
      uint8_t address[16];
      window_address (address, where & 1, where >> 1, key);
      must (acl_set_push (&m->set, room, where & 1, address, (where & 1 ? 128 : 32) - bits) == 0);
      for (unsigned k = key >> bits << bits, i = 0; i < 1u << bits; i++)
	m->mask[where] |= 1ull << ((k + i) % KEYS);
    }
  must (acl_set_settle (&m->set) == 0);
}

static void
check_set (const acl_set *set, const uint64_t mask[4])
{
  for (unsigned where = 0; where < 4; where++)
    for (unsigned key = 0; key < KEYS; key++)
      {
	uint8_t address[16];
	window_address (address, where & 1, where >> 1, key);
	must (acl_set_has (set, where & 1, address, where & 1 ? 128 : 32) == (int) (mask[where] >> key & 1));
      }
  for (size_t i = 1; i < set->n4; i++)
    must (!acl4_touches (set->r4[i - 1].last, set->r4[i].first));
  for (size_t i = 1; i < set->n6; i++)
    must (!acl6_touches (set->r6[i - 1].last, set->r6[i].first));
}

static void
check_algebra (const model *a, const model *b)
{
  for (int operation = ACL_UNITE; operation <= ACL_SUBTRACT; operation++)
    {
      acl_set out;
      uint64_t mask[4];
      for (int i = 0; i < 4; i++)
	mask[i] = operation == ACL_UNITE       ? a->mask[i] | b->mask[i]
		  : operation == ACL_INTERSECT ? a->mask[i] & b->mask[i]
					       : a->mask[i] & ~b->mask[i];
      must (acl_set_combine ((enum acl_operation) operation, &a->set, &b->set, &out) == 0);
      check_set (&out, mask);
      acl_set_free (&out);
    }
}

/* ---- maps and rules made of them ---- */

/* Lays box number 1 << i over the map for each set; then label l has the boxes of bits[l]. */
static void
stack_maps (const model *sets, unsigned n, acl_map *map, uint32_t *bits, uint32_t *n_labels)
{
  *map = (acl_map){ 0 };
  *n_labels = 0;
  for (unsigned i = 0; i < n; i++)
    {
      acl_map one, out;
      acl_pairs pairs = { 0 };
      uint32_t kind[1 << SETS] = { 0 }, number[1 << SETS] = { 0 }, before[1 << SETS], used = 0;
      must (acl_map_of (&sets[i].set, &one) == 0);
      must (acl_map_overlay (map, &one, 0, &pairs, &out) == 0);
      memcpy (before, bits, sizeof before);
      for (uint32_t p = 0; p < pairs.n; p++)
	kind[p + 1] = p + 1;
      acl_map_relabel (&out, kind, number, &used);
      for (uint32_t p = 0; p < pairs.n; p++)
	if (number[p + 1])
	  bits[number[p + 1]] = (pairs.at[p][0] ? before[pairs.at[p][0]] : 0) | (pairs.at[p][1] ? 1u << i : 0);
      *n_labels = used;
      acl_pairs_free (&pairs);
      acl_map_free (&one);
      acl_map_free (map);
      *map = out;
    }
}

static void
check_rules (input *in, const acl_map *map, const uint32_t *bits, uint32_t n_labels)
{
  static const uint8_t PROTOCOLS[] = { ACL_TCP, ACL_UDP, 132, ACL_ICMP, ACL_ICMP6 };
  acl4_range box[SETS], room[1 << SETS][SETS], spare[SETS];
  acl_ports ports[1 << SETS];
  uint8_t action = next (in) % 3, destination = next (in) & 1;
  for (int i = 0; i < SETS; i++)
    {
      uint32_t protocol = PROTOCOLS[next (in) % 5], first = next (in) % 8, last = first + next (in) % 4;
      box[i] = (acl4_range){ protocol << 16 | first, protocol << 16 | (last == 10 ? 65535 : last) };
      if (next (in) % 8 == 0)
	box[i] = (acl4_range){ 0, ACL_PORTS_LAST };
    }
  for (uint32_t label = 1; label <= n_labels; label++)
    {
      size_t n = 0;
      for (int i = 0; i < SETS; i++)
	if (bits[label] >> i & 1)
	  room[label][n++] = box[i];
      ports[label - 1] = (acl_ports){ room[label], acl4_settle (room[label], n, spare) };
    }
  acl_block block = { .action = action, .destination = destination, .map = map, .ports = ports, .n_ports = n_labels };
  acl_rules rules = { 0 };
  size_t bad;
  must (acl_render (&block, &rules) == 0);
  must (acl_check (rules.wire, rules.n, &bad) == ACL_FINE);
  for (unsigned i = 0; i < 64; i++)
    {
      unsigned where = next (in) & 3, key = next (in) % KEYS;
      acl_packet packet = { .version = where & 1 ? 6 : 4, .protocol = PROTOCOLS[next (in) % 5] };
      packet.destination_port = next (in) % 12;
      window_address (destination ? packet.destination : packet.source, where & 1, where >> 1, key);
      uint32_t label = acl_map_at (map, where & 1, destination ? packet.destination : packet.source);
      acl4_range seen[SETS];
      uint32_t wanted = (uint32_t) packet.protocol << 16;
      wanted |= acl_reads_ports (packet.protocol, where & 1) ? packet.destination_port : 0;
      size_t n = label ? acl_ports_seen (ports[label - 1], where & 1, action == ACL_DENY, seen) : 0;
      must ((acl_match (rules.wire, rules.n, &packet) >= 0) == acl4_has (seen, n, wanted, wanted));
    }
  free (rules.wire);
}

static void
as_sets (input *in)
{
  model sets[SETS];
  acl_map map;
  uint32_t bits[1 << SETS] = { 0 }, n_labels;
  uint8_t kept[(1 << SETS) + 1];
  for (int i = 0; i < SETS; i++)
    {
      read_set (in, &sets[i]);
      check_set (&sets[i].set, sets[i].mask);
      if (i)
	check_algebra (&sets[i - 1], &sets[i]);
    }
  stack_maps (sets, SETS, &map, bits, &n_labels);
  memset (kept, 1, sizeof kept);
  uint64_t all[4] = { 0 };
  for (int i = 0; i < SETS; i++)
    for (int where = 0; where < 4; where++)
      all[where] |= sets[i].mask[where];
  acl_set whole;
  must (acl_map_select (&map, kept, &whole) == 0);
  check_set (&whole, all);
  for (unsigned where = 0; where < 4; where++)
    for (unsigned key = 0; key < KEYS; key++)
      {
	uint8_t address[16];
	uint32_t expected = 0;
	window_address (address, where & 1, where >> 1, key);
	for (unsigned i = 0; i < SETS; i++)
	  expected |= (uint32_t) (sets[i].mask[where] >> key & 1) << i;
	must (bits[acl_map_at (&map, where & 1, address)] == expected);
      }
  check_rules (in, &map, bits, n_labels);
  acl_set_free (&whole);
  acl_map_free (&map);
  for (int i = 0; i < SETS; i++)
    acl_set_free (&sets[i].set);
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  input in = { data, size };
  if (next (&in) & 1)
    as_rules (&in);
  else
    as_sets (&in);
  return 0;
}
