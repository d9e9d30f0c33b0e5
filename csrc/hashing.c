#include "hashing.h"

#include <stdlib.h>
#include <string.h>

/* Multipliers and shifts of SplitMix64's finalizer (Steele, Lea, Flood, "Fast splittable pseudorandom number
 * generators", OOPSLA 2014): every input bit flips each output bit with a chance of one half. */
static uint64_t
mix (uint64_t x)
{
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

#define GOLDEN 0x9e3779b97f4a7c15u

uint64_t
ch_hash (const void *data, size_t len, uint64_t seed)
{
  const uint8_t *at = data;
  uint64_t state = mix (seed + GOLDEN * (len + 1));
  uint64_t word;
  size_t left = len;

  while (left)
    {
      size_t take = left < 8 ? left : 8;
      uint8_t bytes[8] = { 0 };

      memcpy (bytes, at, take);
      word = 0;
      for (size_t i = 0; i < 8; i++) /* the same on either byte order; compilers make one load of it */
	word |= (uint64_t) bytes[i] << (8 * i);
      state = mix (state ^ word) + GOLDEN;
      at += take;
      left -= take;
    }
  return mix (state);
}

int
ch_is_prime (uint32_t n)
{
  if (n < 4)
    return n > 1;
  if (n % 2 == 0)
    return 0;
  for (uint64_t d = 3; d * d <= n; d += 2)
    if (n % d == 0)
      return 0;
  return 1;
}

/* ---- Maglev ---------------------------------------------------------------------------------------------------- */

/* Division by a fixed number, by multiplication with its reciprocal. */
typedef struct
{
  uint64_t reciprocal;
  uint32_t divisor;
} modulus;

static uint32_t
reduce (modulus m, uint64_t x)
{
  uint64_t quotient = (uint64_t) (((unsigned __int128) x * m.reciprocal) >> 64);
  uint64_t rest = x - quotient * m.divisor;

  return (uint32_t) (rest >= m.divisor ? rest - m.divisor : rest);
}

typedef struct
{
  uint64_t name;
  uint64_t credit; /* turns that it is owed, in units of the largest weight */
  uint32_t index, weight;
  uint32_t offset, skip, next;
} turn;

static int
by_name (const void *a, const void *b)
{
  const turn *x = a, *y = b;

  if (x->name != y->name)
    return x->name < y->name ? -1 : 1;
  return x->index < y->index ? -1 : x->index > y->index;
}

/* The inverse of skip modulo the prime size (extended Euclid). */
static uint32_t
inverse (uint32_t skip, uint32_t size)
{
  int64_t r0 = size, r1 = skip, t0 = 0, t1 = 1;

  while (r1)
    {
      int64_t q = r0 / r1, r = r0 - q * r1, t = t0 - q * t1;

      r0 = r1, r1 = r, t0 = t1, t1 = t;
    }
  return (uint32_t) (t0 < 0 ? t0 + size : t0);
}

static int
taken (const uint64_t *bitmap, uint32_t at)
{
  return (int) (bitmap[at >> 6] >> (at & 63) & 1);
}

/* at + step modulo size, for both below it. */
static uint32_t
ahead (uint32_t at, uint32_t step, uint32_t size)
{
  uint32_t sum = at + step, less = sum - size;

  return sum < less ? sum : less;
}

#define AT_ONCE 4

/* The first entry of the backend's permutation that nobody has. Looks at several at once: their loads do not wait for
 * each other, and there is one branch for all. */
static uint32_t
probe (turn *t, const uint64_t *bitmap, uint32_t size)
{
  uint32_t steps[AT_ONCE], at = t->next, busy;

  if (!taken (bitmap, at))
    return at;
  steps[0] = t->skip;
  for (int i = 1; i < AT_ONCE; i++)
    steps[i] = ahead (steps[i - 1], t->skip, size);
  for (;;)
    {
      busy = 0;
      for (int i = 0; i < AT_ONCE; i++)
	busy |= (uint32_t) taken (bitmap, ahead (at, steps[i], size)) << i;
      if (busy != (1u << AT_ONCE) - 1)
	break;
      at = ahead (at, steps[AT_ONCE - 1], size);
    }
  at = ahead (at, steps[__builtin_ctz (~busy)], size);
  t->next = at;
  return at;
}

/* The same entry, found the other way round: of the few free ones, the one that comes first in the permutation.
 * Entry e stands at place (e - offset) / skip. Returns its index in free. */
static size_t
nearest (const turn *t, const uint32_t *free_entries, size_t count, modulus m)
{
  uint64_t back = inverse (t->skip, m.divisor);
  uint32_t best = UINT32_MAX;
  size_t found = 0;

  for (size_t i = 0; i < count; i++)
    {
      uint32_t distance = free_entries[i] + (free_entries[i] < t->offset ? m.divisor : 0) - t->offset;
      uint32_t place = reduce (m, distance * back);

      found = place < best ? i : found;
      best = place < best ? place : best;
    }
  return found;
}

/* Whose turn it is next: each round every backend whose credit is full takes one entry. */
static turn *
next_turn (turn *turns, size_t n, size_t *at, uint32_t heaviest)
{
  for (;; *at = *at + 1 == n ? 0 : *at + 1)
    {
      turn *t = &turns[*at];

      t->credit += t->weight;
      if (t->credit >= heaviest)
	{
	  t->credit -= heaviest;
	  *at = *at + 1 == n ? 0 : *at + 1;
	  return t;
	}
    }
}

/* Entries left over at which looking at them beats probing: there a probe hits one in 256. */
#define FEW 256

static void
fill (turn *turns, size_t n, uint32_t *table, uint64_t *bitmap, uint32_t size, uint32_t heaviest)
{
  modulus m = { UINT64_MAX / size, size };
  uint32_t left = size, entries[FEW];
  size_t at = 0, count = 0;

  for (; left > FEW; left--)
    {
      turn *t = next_turn (turns, n, &at, heaviest);
      uint32_t entry = probe (t, bitmap, size);

      bitmap[entry >> 6] |= 1ull << (entry & 63);
      table[entry] = t->index;
    }
  for (uint32_t entry = 0; entry < size; entry++)
    if (!taken (bitmap, entry))
      entries[count++] = entry;
  while (count)
    {
      turn *t = next_turn (turns, n, &at, heaviest);
      size_t found = nearest (t, entries, count, m);

      table[entries[found]] = t->index;
      entries[found] = entries[--count];
    }
}

int
ch_maglev (const uint64_t *backends, const uint32_t *weights, size_t n, uint32_t *table, uint32_t size)
{
  turn *turns;
  uint64_t *bitmap;
  uint32_t heaviest = 0;
  size_t count = 0;

  if (size < 3 || n >= size)
    return -1;
  turns = malloc ((n ? n : 1) * sizeof *turns);
  bitmap = calloc (size / 64 + 1, sizeof *bitmap);
  for (size_t i = 0; turns && bitmap && i < n; i++)
    if (weights[i])
      {
	uint64_t second = mix (backends[i] ^ GOLDEN);
	turn *t = &turns[count++];

	*t = (turn){ .name = backends[i], .index = (uint32_t) i, .weight = weights[i] };
	t->offset = t->next = (uint32_t) (mix (backends[i]) % size);
	t->skip = (uint32_t) (second % (size - 1)) + 1;
	heaviest = weights[i] > heaviest ? weights[i] : heaviest;
      }
  if (count)
    {
      qsort (turns, count, sizeof *turns, by_name);
      fill (turns, count, table, bitmap, size, heaviest);
    }
  int status = !turns || !bitmap ? -2 : count ? 0 : -1;
  free (turns);
  free (bitmap);
  return status;
}

/* ---- selection ------------------------------------------------------------------------------------------------- */

static int
descending (const void *a, const void *b)
{
  const uint64_t *x = a, *y = b;

  if (x[0] != y[0])
    return x[0] > y[0] ? -1 : 1;
  return x[1] < y[1] ? -1 : x[1] > y[1];
}

static int
ascending (const void *a, const void *b)
{
  uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;

  return x < y ? -1 : x > y;
}

size_t
ch_select (const uint64_t *elements, size_t n, uint64_t seed, size_t keep, uint64_t *scratch, uint32_t *chosen)
{
  size_t count = n < keep ? n : keep;

  for (size_t i = 0; i < n; i++)
    {
      scratch[2 * i] = mix (elements[i] ^ mix (seed + GOLDEN));
      scratch[2 * i + 1] = i;
    }
  qsort (scratch, n, 2 * sizeof *scratch, descending);
  for (size_t i = 0; i < count; i++)
    chosen[i] = (uint32_t) scratch[2 * i + 1];
  qsort (chosen, count, sizeof *chosen, ascending);
  return count;
}

/* ---- addresses -------------------------------------------------------------------------------------------------- */

int
ch_read_ipv4 (const char *text, size_t len, uint32_t *address)
{
  uint32_t value = 0;
  size_t at = 0;

  for (int part = 0; part < 4; part++)
    {
      uint32_t number = 0;
      size_t start = at;

      for (; at < len && at - start < 3 && text[at] >= '0' && text[at] <= '9'; at++)
	number = number * 10 + (uint32_t) (text[at] - '0');
      if (at == start || number > 255 || (text[start] == '0' && at - start > 1))
	return -1;
      if (part < 3 && (at == len || text[at++] != '.'))
	return -1;
      value = value << 8 | number;
    }
  *address = value;
  return at == len ? 0 : -1;
}

/* ---- NAT backends ---------------------------------------------------------------------------------------------- */

size_t
ch_pack_records (const uint8_t *addresses, const uint8_t *flags, size_t n, uint8_t mask, uint8_t want, uint8_t heavy,
		 uint8_t weight, uint16_t port, uint8_t *out)
{
  uint8_t *at = out;

  for (size_t i = 0; i < n; i++)
    {
      if ((flags[i] & mask) != want)
	continue;
      memcpy (at, addresses + 4 * i, 4);
      at[4] = (uint8_t) (port >> 8);
      at[5] = (uint8_t) port;
      at[6] = flags[i] & heavy ? weight : 1;
      memset (at + 7, 0, 4);
      at += CH_RECORD;
    }
  return (size_t) (at - out) / CH_RECORD;
}

static int
by_value (const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

  return x < y ? -1 : x > y;
}

/* Few values, often in order already: no call a comparison. */
static void
sort_values (uint64_t *values, size_t n)
{
  if (n > 32)
    {
      qsort (values, n, sizeof *values, by_value);
      return;
    }
  for (size_t i = 1; i < n; i++)
    {
      uint64_t value = values[i];
      size_t at = i;

      for (; at && values[at - 1] > value; at--)
	values[at] = values[at - 1];
      values[at] = value;
    }
}

size_t
ch_unique_records (uint8_t *records, size_t count, uint64_t *scratch)
{
  size_t kept = 0;

  for (size_t i = 0; i < count; i++)
    {
      uint64_t value = 0;

      for (size_t k = 0; k < 7; k++)
	value = value << 8 | records[i * CH_RECORD + k];
      scratch[i] = value;
    }
  sort_values (scratch, count);
  for (size_t i = 0; i < count; i++)
    {
      uint8_t *at = records + kept * CH_RECORD;

      if (i + 1 < count && scratch[i] >> 8 == scratch[i + 1] >> 8)
	continue; /* the last of equals is the heaviest */
      for (size_t k = 0; k < 7; k++)
	at[k] = (uint8_t) (scratch[i] >> (8 * (6 - k)));
      memset (at + 7, 0, 4);
      kept++;
    }
  return kept;
}
