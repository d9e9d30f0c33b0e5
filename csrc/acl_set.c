/* Sets and maps of both families in memory of their own; see acl.h. */
#include "acl.h"

static size_t
size4 (size_t n)
{
  return n * sizeof (acl4_range);
}

static size_t
size6 (size_t n)
{
  return n * sizeof (acl6_range);
}

/* memcmp and memcpy want pointers even for nothing */
static int
same (const void *a, const void *b, size_t size)
{
  return size == 0 || memcmp (a, b, size) == 0;
}

static void *
append (void *to, const void *from, size_t size)
{
  return size ? (uint8_t *) memcpy (to, from, size) + size : to;
}

/* A smaller piece of memory, or the same where there is none. */
static void *
fit (void *at, size_t size)
{
  void *fitted = realloc (at, size);
  return fitted ? fitted : at;
}

/* ---- sets ---- */

void
acl_set_free (acl_set *set)
{
  free (set->r4);
  free (set->r6);
  *set = (acl_set){ 0 };
}

int
acl_set_combine (enum acl_operation operation, const acl_set *a, const acl_set *b, acl_set *out)
{
  *out = (acl_set){ 0 };
  if (acl4_combine (operation, a->r4, a->n4, b->r4, b->n4, &out->r4, &out->n4)
      || acl6_combine (operation, a->r6, a->n6, b->r6, b->n6, &out->r6, &out->n6))
    {
      acl_set_free (out);
      return -1;
    }
  return 0;
}

int
acl_set_settle (acl_set *set)
{
  acl4_range *spare4 = malloc (size4 (set->n4 + 1));
  acl6_range *spare6 = malloc (size6 (set->n6 + 1));
  int failed = !spare4 || !spare6;
  if (!failed)
    {
      set->n4 = acl4_settle (set->r4, set->n4, spare4);
      set->n6 = acl6_settle (set->r6, set->n6, spare6);
      set->r4 = fit (set->r4, size4 (set->n4 + 1));
      set->r6 = fit (set->r6, size6 (set->n6 + 1));
    }
  free (spare4);
  free (spare6);
  return failed ? -1 : 0;
}

int
acl_set_gather (const acl_set *const *sets, size_t n, acl_set *out)
{
  *out = (acl_set){ 0 };
  size_t n4 = 0, n6 = 0;
  for (size_t i = 0; i < n; i++)
    n4 += sets[i]->n4, n6 += sets[i]->n6;
  out->r4 = malloc (size4 (n4 + 1)), out->r6 = malloc (size6 (n6 + 1));
  if (out->r4 && out->r6)
    {
      acl4_range *at4 = out->r4;
      acl6_range *at6 = out->r6;
      for (size_t i = 0; i < n; i++)
	{
	  at4 = append (at4, sets[i]->r4, size4 (sets[i]->n4));
	  at6 = append (at6, sets[i]->r6, size6 (sets[i]->n6));
	}
      out->n4 = n4, out->n6 = n6;
      if (acl_set_settle (out) == 0)
	return 0;
    }
  acl_set_free (out);
  return -1;
}

int
acl_set_equal (const acl_set *a, const acl_set *b)
{
  return a->n4 == b->n4 && a->n6 == b->n6 && same (a->r4, b->r4, size4 (a->n4)) && same (a->r6, b->r6, size6 (a->n6));
}

uint64_t
acl_set_hash (const acl_set *set)
{
  return acl_hash (set->r6, size6 (set->n6), acl_hash (set->r4, size4 (set->n4), 0));
}

size_t
acl_set_prefixes (const acl_set *set)
{
  return acl4_prefixes (set->r4, set->n4) + acl6_prefixes (set->r6, set->n6);
}

void
acl_set_write (const acl_set *set, uint8_t *out)
{
  for (size_t i = 0; i < set->n4; i++)
    for (uint32_t first = set->r4[i].first, last = set->r4[i].last;; first++)
      {
	unsigned bits = acl4_host_bits (first, last);
	memset (out, 0, ACL_PREFIX);
	acl_store4 (out + 1, first);
	out[17] = (uint8_t) (32 - bits);
	out += ACL_PREFIX;
	first += acl4_host_mask (bits);
	if (first == last)
	  break;
      }
  for (size_t i = 0; i < set->n6; i++)
    for (acl_u128 first = set->r6[i].first, last = set->r6[i].last;; first++)
      {
	unsigned bits = acl6_host_bits (first, last);
	out[0] = 1;
	acl_store6 (out + 1, first);
	out[17] = (uint8_t) (128 - bits);
	out += ACL_PREFIX;
	first += acl6_host_mask (bits);
	if (first == last)
	  break;
      }
}

/* Room for one more; a set under construction grows by halves. */
static void *
grow (void *at, size_t n, size_t *room, size_t size)
{
  size_t wanted = n < 8 ? 8 : n + n / 2;
  if (n < *room)
    return at;
  void *grown = wanted > SIZE_MAX / size ? NULL : realloc (at, wanted * size);
  if (grown)
    *room = wanted;
  return grown;
}

int
acl_set_push (acl_set *set, size_t room[2], int is_ip6, const uint8_t *address, unsigned length)
{
  void *at = is_ip6 ? grow (set->r6, set->n6, &room[1], sizeof *set->r6)
		    : grow (set->r4, set->n4, &room[0], sizeof *set->r4);
  if (!at)
    return -1;
  if (is_ip6)
    {
      acl_u128 first = acl_load6 (address) & acl_mask6 (length);
      set->r6 = at;
      set->r6[set->n6++] = (acl6_range){ first, first | ~acl_mask6 (length) };
    }
  else
    {
      uint32_t first = acl_load4 (address) & acl_mask4 (length);
      set->r4 = at;
      set->r4[set->n4++] = (acl4_range){ first, first | ~acl_mask4 (length) };
    }
  return 0;
}

int
acl_set_has (const acl_set *set, int is_ip6, const uint8_t *address, unsigned length)
{
  if (is_ip6)
    {
      acl_u128 first = acl_load6 (address) & acl_mask6 (length);
      return acl6_has (set->r6, set->n6, first, first | ~acl_mask6 (length));
    }
  uint32_t first = acl_load4 (address) & acl_mask4 (length);
  return acl4_has (set->r4, set->n4, first, first | ~acl_mask4 (length));
}

int
acl_set_covers (const acl_set *a, const acl_set *b)
{
  return acl4_covers (a->r4, a->n4, b->r4, b->n4) && acl6_covers (a->r6, a->n6, b->r6, b->n6);
}

int
acl_set_disjoint (const acl_set *a, const acl_set *b)
{
  return acl4_disjoint (a->r4, a->n4, b->r4, b->n4) && acl6_disjoint (a->r6, a->n6, b->r6, b->n6);
}

/* ---- maps ---- */

void
acl_map_free (acl_map *map)
{
  free (map->r4);
  free (map->r6);
  free (map->l4);
  free (map->l6);
  *map = (acl_map){ 0 };
}

static int
map_alloc (acl_map *map, size_t n4, size_t n6)
{
  *map = (acl_map){ .r4 = malloc (size4 (n4 + 1)),
		    .r6 = malloc (size6 (n6 + 1)),
		    .l4 = malloc ((n4 + 1) * sizeof (uint32_t)),
		    .l6 = malloc ((n6 + 1) * sizeof (uint32_t)) };
  if (map->r4 && map->r6 && map->l4 && map->l6)
    return 0;
  acl_map_free (map);
  return -1;
}

static void
map_fit (acl_map *map)
{
  map->r4 = fit (map->r4, size4 (map->n4 + 1)), map->l4 = fit (map->l4, (map->n4 + 1) * sizeof (uint32_t));
  map->r6 = fit (map->r6, size6 (map->n6 + 1)), map->l6 = fit (map->l6, (map->n6 + 1) * sizeof (uint32_t));
}

int
acl_map_of (const acl_set *set, acl_map *out)
{
  if (map_alloc (out, set->n4, set->n6))
    return -1;
  append (out->r4, set->r4, size4 (set->n4));
  append (out->r6, set->r6, size6 (set->n6));
  out->n4 = set->n4, out->n6 = set->n6;
  for (size_t i = 0; i < set->n4; i++)
    out->l4[i] = 1;
  for (size_t i = 0; i < set->n6; i++)
    out->l6[i] = 1;
  return 0;
}

int
acl_map_overlay (const acl_map *a, const acl_map *b, int both, acl_pairs *pairs, acl_map *out)
{
  if (map_alloc (out, 2 * (a->n4 + b->n4), 2 * (a->n6 + b->n6)))
    return -1;
  out->n4 = acl4_overlay (a->r4, a->l4, a->n4, b->r4, b->l4, b->n4, both, pairs, out->r4, out->l4);
  if (out->n4 != SIZE_MAX)
    out->n6 = acl6_overlay (a->r6, a->l6, a->n6, b->r6, b->l6, b->n6, both, pairs, out->r6, out->l6);
  if (out->n4 == SIZE_MAX || out->n6 == SIZE_MAX)
    {
      acl_map_free (out);
      return -1;
    }
  return 0;
}

void
acl_map_relabel (acl_map *map, const uint32_t *kind, uint32_t *number, uint32_t *next)
{
  map->n4 = acl4_relabel (map->r4, map->l4, map->n4, kind, number, next);
  map->n6 = acl6_relabel (map->r6, map->l6, map->n6, kind, number, next);
  map_fit (map);
}

int
acl_map_select (const acl_map *map, const uint8_t *kept, acl_set *out)
{
  *out = (acl_set){ .r4 = malloc (size4 (map->n4 + 1)), .r6 = malloc (size6 (map->n6 + 1)) };
  if (!out->r4 || !out->r6)
    {
      acl_set_free (out);
      return -1;
    }
  out->n4 = acl4_select (map->r4, map->l4, map->n4, kept, out->r4);
  out->n6 = acl6_select (map->r6, map->l6, map->n6, kept, out->r6);
  out->r4 = fit (out->r4, size4 (out->n4 + 1));
  out->r6 = fit (out->r6, size6 (out->n6 + 1));
  return 0;
}

uint32_t
acl_map_at (const acl_map *map, int is_ip6, const uint8_t *address)
{
  if (is_ip6)
    {
      acl_u128 key = acl_load6 (address);
      size_t i = acl6_seek (map->r6, map->n6, key);
      return i < map->n6 && map->r6[i].first <= key ? map->l6[i] : 0;
    }
  uint32_t key = acl_load4 (address);
  size_t i = acl4_seek (map->r4, map->n4, key);
  return i < map->n4 && map->r4[i].first <= key ? map->l4[i] : 0;
}

int
acl_map_equal (const acl_map *a, const acl_map *b)
{
  return a->n4 == b->n4 && a->n6 == b->n6 && same (a->r4, b->r4, size4 (a->n4)) && same (a->r6, b->r6, size6 (a->n6))
	 && same (a->l4, b->l4, a->n4 * sizeof (uint32_t)) && same (a->l6, b->l6, a->n6 * sizeof (uint32_t));
}

uint64_t
acl_map_hash (const acl_map *map)
{
  uint64_t h = acl_hash (map->r4, size4 (map->n4), 0);
  h = acl_hash (map->l4, map->n4 * sizeof (uint32_t), h);
  h = acl_hash (map->r6, size6 (map->n6), h);
  return acl_hash (map->l6, map->n6 * sizeof (uint32_t), h);
}
