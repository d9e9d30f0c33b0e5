/* Rules of one family and one interval of ports; included by acl.c once for each family, after acl_ranges.h.
 *
 * AR_KEY and AR as there, AR_FIELD(name) is a field of the family, AR_IP6 says which and AR_STORE writes an address. */

static int
AR (prepare_own) (writer *w)
{
  const acl_set *own = w->block->own;
  w->n_own = own ? AR (prefixes) (own->AR_FIELD (r), own->AR_FIELD (n)) : 1;
  w->own = calloc (w->n_own + 1, PREFIX);
  w->rules = malloc ((w->n_own + 1) * ACL_RULE);
  if (!w->own || !w->rules)
    return -1;
  if (!own)
    return 0;
  uint8_t *at = w->own;
  for (size_t i = 0; i < own->AR_FIELD (n); i++)
    for (AR_KEY first = own->AR_FIELD (r)[i].first, last = own->AR_FIELD (r)[i].last;;)
      {
	unsigned bits = AR (host_bits) (first, last);
	AR_STORE (at, first);
	at[16] = (uint8_t) (sizeof (AR_KEY) * 8 - bits);
	at += PREFIX;
	first = (AR_KEY) (first + AR (host_mask) (bits));
	if (first == last)
	  break;
	first++;
      }
  return 0;
}

/* Rules for one prefix: one for each of the other side's. */
static inline int
AR (write_prefix) (writer *w, AR_KEY first, unsigned bits)
{
  unsigned here = w->block->destination ? 20 : 2;
  acl_rules *out = w->out;
  while (out->cap - out->n < w->n_own)
    if (rules_grow (out))
      return -1;
  uint8_t *at = out->wire + out->n * ACL_RULE;
  out->n += w->n_own;
  for (size_t i = 0; i < w->n_own; i++, at += ACL_RULE)
    {
      memcpy (at, w->rules + i * ACL_RULE, ACL_RULE);
      AR_STORE (at + here, first);
      at[here + 16] = (uint8_t) (sizeof (AR_KEY) * 8 - bits);
    }
  if (bits == sizeof (AR_KEY) * 8 && w->n_own == 1)
    out->closed[AR_IP6] = (uint8_t) takes_all (at - ACL_RULE);
  return 0;
}

/* The prefixes of a stretch where the interval may be allowed, given ranges i to end of the map in it: those that hold
 * an address for which it must be. They are the largest possible, so no fewer would do. */
static int
AR (write_stretch) (writer *w, size_t i, size_t end)
{
  const AR (range) *at = w->block->map->AR_FIELD (r);
  const uint32_t *labels = w->block->map->AR_FIELD (l);
  AR_KEY first = at[i].first, last = at[end - 1].last;
  for (;;)
    {
      unsigned bits = AR (host_bits) (first, last);
      AR_KEY stop = (AR_KEY) (first + AR (host_mask) (bits));
      while (i < end && (at[i].last < first || !(w->mark[labels[i]] & REQUIRED)))
	i++;
      if (i == end)
	return 0;
      if (at[i].first <= stop && AR (write_prefix) (w, first, bits))
	return -1;
      if (stop == last)
	return 0;
      first = (AR_KEY) (stop + 1);
    }
}

static int
AR (write) (writer *w, acl4_range interval)
{
  const AR (range) *at = w->block->map->AR_FIELD (r);
  const uint32_t *labels = w->block->map->AR_FIELD (l);
  size_t n = w->block->map->AR_FIELD (n);
  uint8_t rule[ACL_RULE] = { w->block->action, AR_IP6 };
  int any = interval.first == 0;
  rule[19] = AR_IP6;
  rule[37] = any ? 0 : (uint8_t) (interval.first >> 16);
  acl_store16 (rule + 40, PORT);
  acl_store16 (rule + 42, any ? 0 : interval.first & PORT);
  acl_store16 (rule + 44, interval.last & PORT);
  for (size_t i = 0; i < w->n_own; i++)
    {
      memcpy (w->rules + i * ACL_RULE, rule, ACL_RULE);
      memcpy (w->rules + i * ACL_RULE + (w->block->destination ? 2 : 20), w->own + i * PREFIX, PREFIX);
    }
  for (size_t i = 0; i < n;)
    {
      uint8_t required = w->mark[labels[i]];
      size_t end = i + 1;
      if (!(required & FREE))
	{
	  i = end;
	  continue;
	}
      for (; end < n && (w->mark[labels[end]] & FREE) && AR (touches) (at[end - 1].last, at[end].first); end++)
	required |= w->mark[labels[end]];
      if ((required & REQUIRED) && AR (write_stretch) (w, i, end))
	return -1;
      i = end;
    }
  return 0;
}

#undef AR_KEY
#undef AR
#undef AR_FIELD
#undef AR_IP6
#undef AR_STORE
