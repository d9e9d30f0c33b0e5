/* Sets and maps to rules; see acl.h. */
#include "acl.h"

enum { SLOTS = 64, FIRST_RULES = 64, PORT = 0xffff };

uint64_t
acl_hash (const void *data, size_t size, uint64_t seed)
{
  const uint8_t *at = data;
  uint64_t h = seed ^ (size * 0x9e3779b97f4a7c15ull);
  for (; size > 0;)
    {
      uint64_t word = 0;
      size_t step = size < 8 ? size : 8;
      memcpy (&word, at, step);
      unsigned __int128 product = (unsigned __int128) (h ^ word) * 0xd6e8feb86659fd93ull;
      h = ((uint64_t) product ^ (uint64_t) (product >> 64)) + 0x9e3779b97f4a7c15ull;
      at += step, size -= step;
    }
  return h ^ h >> 32;
}

/* ---- pairs of labels ---- */

static uint32_t *
pair_slot (const acl_pairs *pairs, uint32_t a, uint32_t b)
{
  uint32_t key[2] = { a, b };
  uint32_t mask = pairs->cap - 1, slot = (uint32_t) acl_hash (key, sizeof key, 0) & mask;
  for (;; slot = (slot + 1) & mask)
    {
      uint32_t number = pairs->slots[slot];
      if (number == 0 || (pairs->at[number - 1][0] == a && pairs->at[number - 1][1] == b))
	return &pairs->slots[slot];
    }
}

static int
pairs_grow (acl_pairs *pairs)
{
  uint32_t cap = pairs->cap ? pairs->cap * 2 : SLOTS;
  uint32_t (*at)[2] = realloc (pairs->at, sizeof *at * (cap / 2));
  if (!at)
    return -1;
  pairs->at = at;
  uint32_t *slots = calloc (cap, sizeof *slots);
  if (!slots)
    return -1;
  free (pairs->slots);
  pairs->slots = slots, pairs->cap = cap;
  for (uint32_t i = 0; i < pairs->n; i++)
    *pair_slot (pairs, at[i][0], at[i][1]) = i + 1;
  return 0;
}

uint32_t
acl_pair_slow (acl_pairs *pairs, uint32_t a, uint32_t b)
{
  if (pairs->n >= pairs->cap / 2 && (pairs->cap > UINT32_MAX / 4 || pairs_grow (pairs)))
    return 0;
  uint32_t *slot = pair_slot (pairs, a, b);
  if (*slot == 0)
    {
      pairs->at[pairs->n][0] = a, pairs->at[pairs->n][1] = b;
      *slot = ++pairs->n;
    }
  pairs->last[0] = a, pairs->last[1] = b, pairs->last[2] = *slot;
  return *slot;
}

void
acl_pairs_free (acl_pairs *pairs)
{
  free (pairs->at);
  free (pairs->slots);
  *pairs = (acl_pairs){ 0 };
}

/* ---- ports ---- */

int
acl_reads_ports (unsigned protocol, int is_ip6)
{
  return protocol == ACL_TCP || protocol == ACL_UDP || protocol == (is_ip6 ? ACL_ICMP6 : ACL_ICMP);
}

/* The protocols between the ends of a range are whole; only those of the ends can be cut. */
size_t
acl_ports_seen (acl_ports ports, int is_ip6, int wider, acl4_range *out)
{
  size_t n = 0;
  for (size_t i = 0; i < ports.n; i++)
    {
      uint32_t first = ports.at[i].first, last = ports.at[i].last;
      uint32_t low = first & ~(uint32_t) PORT, high = last & ~(uint32_t) PORT;
      if (!acl_reads_ports (first >> 16, is_ip6))
	{
	  int whole = (first & PORT) <= 1 && last >= (low | PORT);
	  first = whole || wider ? low : low + PORT + 1;
	}
      if (!acl_reads_ports (last >> 16, is_ip6) && (last & PORT) != PORT)
	{
	  if (wider)
	    last = high | PORT;
	  else if (high <= first)
	    continue;
	  else
	    last = high - 1;
	}
      if (first <= last)
	n = acl4_append (out, n, first, last);
    }
  return n;
}

/* ---- rendering ---- */

static int
rules_grow (acl_rules *rules)
{
  size_t cap = rules->cap ? rules->cap * 2 : FIRST_RULES;
  uint8_t *wire = cap > SIZE_MAX / ACL_RULE ? NULL : realloc (rules->wire, cap * ACL_RULE);
  if (!wire)
    return -1;
  rules->wire = wire, rules->cap = cap;
  return 0;
}

/* Whether a rule looks at nothing but the family. */
static int
takes_all (const uint8_t *rule)
{
  return rule[18] == 0 && rule[36] == 0 && rule[37] == 0;
}

enum { FREE = 1, REQUIRED = 2 };

/* One family of a block being written: what was made of it, and where it goes. */
typedef struct
{
  const acl_block *block;
  acl_rules *out;
  int is_ip6;
  acl_ports *seen;	 /* of each label, with room in ranges */
  acl4_range *ranges;
  acl4_range *intervals; /* what a rule can say of ports, no two alike */
  size_t n_intervals;
  uint8_t *mark;	 /* of each label (1 and up), for the interval in hand */
  uint8_t *own;		 /* prefixes of the other side: 16 bytes and a length each */
  uint8_t *rules;	 /* what all rules of the interval in hand say, one for each of them */
  size_t n_own;
} writer;

enum { PREFIX = 17 };

static int
compare_ranges (const void *a, const void *b)
{
  const acl4_range *x = a, *y = b;
  if (x->first != y->first)
    return x->first < y->first ? -1 : 1;
  return (x->last > y->last) - (x->last < y->last);
}

/* The part of a range that one rule can name: all of it when it is everything, otherwise that of one protocol. */
static acl4_range
part (acl4_range range, uint32_t from)
{
  uint32_t end = from | PORT;
  if (range.first == 0 && range.last == ACL_PORTS_LAST)
    return range;
  return (acl4_range){ from, range.last < end ? range.last : end };
}

static size_t
count_parts (acl4_range range)
{
  return range.first == 0 ? 1 : (range.last >> 16) - (range.first >> 16) + 1;
}

/* What each label's ports are to VPP, and every interval of them once. */
static int
prepare_ports (writer *w)
{
  size_t room = 0, parts = 0;
  for (uint32_t i = 0; i < w->block->n_ports; i++)
    room += w->block->ports[i].n;
  w->seen = malloc ((w->block->n_ports + 1) * sizeof *w->seen);
  w->ranges = malloc ((room + 1) * sizeof *w->ranges);
  w->mark = calloc (w->block->n_ports + 1, 1);
  if (!w->seen || !w->ranges || !w->mark)
    return -1;
  acl4_range *at = w->ranges;
  for (uint32_t i = 0; i < w->block->n_ports; i++)
    {
      size_t n = acl_ports_seen (w->block->ports[i], w->is_ip6, w->block->action == ACL_DENY, at);
      w->seen[i] = (acl_ports){ at, n };
      for (size_t k = 0; k < n; k++)
	parts += count_parts (at[k]);
      at += n;
    }
  w->intervals = malloc ((parts + 1) * sizeof *w->intervals);
  if (!w->intervals)
    return -1;
  size_t n = 0;
  for (acl4_range *range = w->ranges; range < at; range++)
    for (uint64_t from = range->first; from <= range->last; from = (uint64_t) w->intervals[n++].last + 1)
      w->intervals[n] = part (*range, (uint32_t) from);
  if (n > 1)
    qsort (w->intervals, n, sizeof *w->intervals, compare_ranges);
  for (size_t i = 0; i < n; i++)
    if (w->n_intervals == 0 || compare_ranges (&w->intervals[w->n_intervals - 1], &w->intervals[i]))
      w->intervals[w->n_intervals++] = w->intervals[i];
  return 0;
}

/* Which labels must have rules of this interval, and which may. */
static void
mark_labels (writer *w, acl4_range interval)
{
  for (uint32_t i = 0; i < w->block->n_ports; i++)
    {
      acl_ports ports = w->seen[i];
      size_t k = acl4_seek (ports.at, ports.n, interval.first);
      w->mark[i + 1] = 0;
      if (k == ports.n || ports.at[k].first > interval.first || ports.at[k].last < interval.last)
	continue;
      uint32_t from = interval.first & ~(uint32_t) PORT;
      acl4_range own = part (ports.at[k], ports.at[k].first > from ? ports.at[k].first : from);
      w->mark[i + 1] = FREE | (own.first == interval.first && own.last == interval.last ? REQUIRED : 0);
    }
}

#define AR_KEY uint32_t
#define AR(name) acl4_##name
#define AR_FIELD(name) name##4
#define AR_IP6 0
#define AR_STORE acl_store4
#include "acl_write.h"

#define AR_KEY acl_u128
#define AR(name) acl6_##name
#define AR_FIELD(name) name##6
#define AR_IP6 1
#define AR_STORE acl_store6
#include "acl_write.h"

static int
render_family (const acl_block *block, int is_ip6, acl_rules *out)
{
  writer w = { .block = block, .out = out, .is_ip6 = is_ip6 };
  int failed = 0;
  if (out->closed[is_ip6] || (is_ip6 ? block->map->n6 : block->map->n4) == 0)
    return 0;
  failed = (is_ip6 ? acl6_prepare_own (&w) : acl4_prepare_own (&w)) || prepare_ports (&w);
  for (size_t i = 0; i < w.n_intervals && !failed && !out->closed[is_ip6]; i++)
    {
      mark_labels (&w, w.intervals[i]);
      failed = is_ip6 ? acl6_write (&w, w.intervals[i]) : acl4_write (&w, w.intervals[i]);
    }
  free (w.seen);
  free (w.ranges);
  free (w.intervals);
  free (w.mark);
  free (w.own);
  free (w.rules);
  return failed ? -1 : 0;
}

int
acl_render (const acl_block *block, acl_rules *out)
{
  return render_family (block, 0, out) || render_family (block, 1, out) ? -1 : 0;
}

int
acl_drop_repeated (acl_rules *rules, size_t first)
{
  size_t plain = first, size = SLOTS, kept = first;
  while (plain < rules->n && takes_all (rules->wire + plain * ACL_RULE))
    plain++;
  if (plain >= rules->n || first == 0)
    return 0;
  while (size < rules->n * 2)
    size *= 2;
  size_t *slots = calloc (size, sizeof *slots);
  if (!slots)
    return -1;
  for (size_t i = 0; i < rules->n; i++)
    {
      const uint8_t *rule = rules->wire + i * ACL_RULE;
      size_t slot = (size_t) acl_hash (rule + 1, ACL_RULE - 1, 0) & (size - 1);
      while (slots[slot] && memcmp (rules->wire + (slots[slot] - 1) * ACL_RULE + 1, rule + 1, ACL_RULE - 1) != 0)
	slot = (slot + 1) & (size - 1);
      if (slots[slot] && i >= first)
	continue;
      size_t place = i < first ? i : kept++;
      if (place != i)
	memcpy (rules->wire + place * ACL_RULE, rule, ACL_RULE);
      if (!slots[slot])
	slots[slot] = place + 1;
    }
  rules->n = kept;
  free (slots);
  return 0;
}
