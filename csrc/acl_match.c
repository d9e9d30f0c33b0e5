/* Rules as VPP reads them: what it refuses, what a packet meets, what a table is called; see acl.h. */
#include "acl.h"
#include "blake2b.h"

/* ---- what VPP refuses ---- */

static enum acl_fault
check_prefix (uint8_t *prefix)
{
  unsigned length = prefix[17];
  if (prefix[0] > 1)
    return ACL_BAD_FAMILY;
  if (length > (prefix[0] ? 128u : 32u))
    return ACL_BAD_LENGTH;
  if (prefix[0] ? (acl_load6 (prefix + 1) & ~acl_mask6 (length)) != 0
		: (acl_load4 (prefix + 1) & ~acl_mask4 (length)) != 0)
    return ACL_HOST_BITS;
  if (!prefix[0])
    memset (prefix + 5, 0, 12);
  return ACL_FINE;
}

static enum acl_fault
check_rule (uint8_t *rule)
{
  if (rule[0] > ACL_REFLECT)
    return ACL_BAD_ACTION;
  enum acl_fault fault = check_prefix (rule + 1);
  if (fault == ACL_FINE)
    fault = check_prefix (rule + 19);
  if (fault != ACL_FINE)
    return fault;
  if (rule[1] != rule[19])
    return ACL_MIXED_FAMILIES;
  if (acl_load16 (rule + 38) > acl_load16 (rule + 40) || acl_load16 (rule + 42) > acl_load16 (rule + 44))
    return ACL_BAD_PORTS;
  return ACL_FINE;
}

enum acl_fault
acl_check (uint8_t *wire, size_t n, size_t *bad)
{
  for (size_t i = 0; i < n; i++)
    {
      enum acl_fault fault = check_rule (wire + i * ACL_RULE);
      if (fault != ACL_FINE)
	{
	  *bad = i;
	  return fault;
	}
    }
  return ACL_FINE;
}

/* ---- packets ---- */

typedef struct
{
  uint32_t source_port, destination_port;
  uint8_t protocol, flags, tcp_flags, is_tcp;
} l4;

static l4
l4_of (const acl_packet *packet)
{
  int reads = acl_reads_ports (packet->protocol, packet->version == 6);
  return (l4){ .source_port = reads ? packet->source_port : 0,
	       .destination_port = reads ? packet->destination_port : 0,
	       .protocol = packet->protocol,
	       .flags = packet->flags,
	       .tcp_flags = packet->tcp_flags,
	       .is_tcp = packet->protocol == ACL_TCP };
}

/* The rule's say on what is above IP; the addresses match already. tail is what stands at byte 37 of a rule. */
static int
match_l4 (const uint8_t *tail, const l4 *packet)
{
  if (tail[0] == 0)
    return 1;
  if (tail[0] != packet->protocol)
    return 0;
  if (packet->flags & ACL_FRAGMENT)
    return 1;
  if (packet->flags & ACL_TRUNCATED)
    return 0;
  return packet->source_port >= acl_load16 (tail + 1) && packet->source_port <= acl_load16 (tail + 3)
	 && packet->destination_port >= acl_load16 (tail + 5) && packet->destination_port <= acl_load16 (tail + 7)
	 && (!packet->is_tcp || (packet->tcp_flags & tail[9]) == tail[10]);
}

int64_t
acl_match (const uint8_t *wire, size_t n, const acl_packet *packet)
{
  l4 above = l4_of (packet);
  int is_ip6 = packet->version == 6;
  uint32_t source4 = acl_load4 (packet->source), destination4 = acl_load4 (packet->destination);
  acl_u128 source6 = acl_load6 (packet->source), destination6 = acl_load6 (packet->destination);
  for (size_t i = 0; i < n; i++)
    {
      const uint8_t *rule = wire + i * ACL_RULE;
      if (rule[1] != is_ip6)
	continue;
      if (is_ip6 ? ((source6 ^ acl_load6 (rule + 2)) & acl_mask6 (rule[18])) != 0
		     || ((destination6 ^ acl_load6 (rule + 20)) & acl_mask6 (rule[36])) != 0
		 : ((source4 ^ acl_load4 (rule + 2)) & acl_mask4 (rule[18])) != 0
		     || ((destination4 ^ acl_load4 (rule + 20)) & acl_mask4 (rule[36])) != 0)
	continue;
      if (match_l4 (rule + 37, &above))
	return (int64_t) i;
    }
  return -1;
}

/* A table unpacked for many packets: one array for each family, in order. */
typedef struct
{
  uint32_t source, source_mask, destination, destination_mask, line;
} plain4;

typedef struct
{
  acl_u128 source, source_mask, destination, destination_mask;
  uint32_t line;
} plain6;

static void
unpack (const uint8_t *wire, size_t n, plain4 *four, size_t *n4, plain6 *six, size_t *n6)
{
  for (size_t i = 0; i < n; i++)
    {
      const uint8_t *rule = wire + i * ACL_RULE;
      if (rule[1])
	six[(*n6)++] = (plain6){ acl_load6 (rule + 2), acl_mask6 (rule[18]), acl_load6 (rule + 20), acl_mask6 (rule[36]),
				 (uint32_t) i };
      else
	four[(*n4)++] = (plain4){ acl_load4 (rule + 2), acl_mask4 (rule[18]), acl_load4 (rule + 20), acl_mask4 (rule[36]),
				  (uint32_t) i };
    }
}

static int32_t
match4 (const uint8_t *wire, const plain4 *rules, size_t n, const acl_packet *packet)
{
  l4 above = l4_of (packet);
  uint32_t source = acl_load4 (packet->source), destination = acl_load4 (packet->destination);
  for (size_t i = 0; i < n; i++)
    if ((((source ^ rules[i].source) & rules[i].source_mask)
	 | ((destination ^ rules[i].destination) & rules[i].destination_mask)) == 0
	&& match_l4 (wire + (size_t) rules[i].line * ACL_RULE + 37, &above))
      return (int32_t) rules[i].line;
  return -1;
}

static int32_t
match6 (const uint8_t *wire, const plain6 *rules, size_t n, const acl_packet *packet)
{
  l4 above = l4_of (packet);
  acl_u128 source = acl_load6 (packet->source), destination = acl_load6 (packet->destination);
  for (size_t i = 0; i < n; i++)
    if ((((source ^ rules[i].source) & rules[i].source_mask)
	 | ((destination ^ rules[i].destination) & rules[i].destination_mask)) == 0
	&& match_l4 (wire + (size_t) rules[i].line * ACL_RULE + 37, &above))
      return (int32_t) rules[i].line;
  return -1;
}

int
acl_match_many (const uint8_t *wire, size_t n, const acl_packet *packets, size_t n_packets, int32_t *lines)
{
  size_t n4 = 0, n6 = 0, count6 = 0;
  for (size_t i = 0; i < n; i++)
    count6 += wire[i * ACL_RULE + 1];
  plain4 *four = malloc ((n - count6 + 1) * sizeof *four);
  plain6 *six = aligned_alloc (16, (count6 + 1) * sizeof *six);
  int failed = !four || !six;
  if (!failed)
    unpack (wire, n, four, &n4, six, &n6);
  for (size_t i = 0; i < n_packets && !failed; i++)
    lines[i] = packets[i].version == 6 ? match6 (wire, six, n6, packets + i) : match4 (wire, four, n4, packets + i);
  free (four);
  free (six);
  return failed ? -1 : 0;
}

/* ---- names ---- */

enum { HALVES = ACL_RULE / 2, CHUNK = 4096, COMPACT_MAX = 3 + ACL_RULE };

static uint64_t
load_word (const uint8_t *at)
{
  uint64_t word;
  memcpy (&word, at, sizeof word);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
  word = __builtin_bswap64 (word);
#endif
  return word;
}

/* A rule's difference from the one before it. Returns its bytes, COMPACT_MAX at most; out has room for that. */
static inline size_t
compact (const uint8_t *before, const uint8_t *rule, uint8_t *out)
{
  uint32_t differs = 0;
  size_t n = 3;
  for (unsigned word = 0; word < ACL_RULE / 8; word++)
    {
      uint64_t change = load_word (before + word * 8) ^ load_word (rule + word * 8);
      for (unsigned half = word * 4; change; half++, change >>= 16)
	if (change & 0xffff)
	  {
	    differs |= 1u << half;
	    memcpy (out + n, rule + half * 2, 2);
	    n += 2;
	  }
    }
  out[0] = (uint8_t) differs, out[1] = (uint8_t) (differs >> 8), out[2] = (uint8_t) (differs >> 16);
  return n;
}

void
acl_fingerprint (const uint8_t *wire, size_t n, uint8_t out[16])
{
  static const uint8_t zeros[ACL_RULE];
  uint8_t chunk[CHUNK + COMPACT_MAX];
  size_t filled = 0;
  blake2b state;
  blake2b_init (&state, 16);
  for (size_t i = 0; i < n; i++)
    {
      const uint8_t *rule = wire + i * ACL_RULE;
      filled += compact (i ? rule - ACL_RULE : zeros, rule, chunk + filled);
      if (filled >= CHUNK)
	{
	  blake2b_add (&state, chunk, filled);
	  filled = 0;
	}
    }
  blake2b_add (&state, chunk, filled);
  blake2b_end (&state, out);
}
