/* Sorted ranges of one kind of key: the algebra of sets, included once for each kind.
 *
 * Before including: AR_KEY is the unsigned type, AR(name) decorates names, AR_MAX is the largest key, AR_CTZ(key) and
 * AR_LOG2(key) are the number of trailing zeros and the place of the highest bit of a key that is not 0.
 *
 * A set is canonical: ranges ascend, and between two of them there is at least one key that is in neither, so that
 * equal sets are equal bytes. Sizes of results are bounded beforehand, so nothing here takes memory: out has the room that
 * each function's comment asks for. A map is a set whose ranges carry labels, 1 and up; ranges with different labels
 * may touch. 0 stands for "not in the map". */

typedef struct
{
  AR_KEY first, last; /* both in the range */
} AR (range);

/* Whether a range that begins at first continues one that ends at last. */
static inline int
AR (touches) (AR_KEY last, AR_KEY first)
{
  return first <= last || first == (AR_KEY) (last + 1);
}

/* The first of n ranges that ends at key or behind it. */
static inline size_t
AR (seek) (const AR (range) * at, size_t n, AR_KEY key)
{
  size_t low = 0;
  while (low < n)
    {
      size_t middle = low + (n - low) / 2;
      if (at[middle].last < key)
	low = middle + 1;
      else
	n = middle;
    }
  return low;
}

/* As seek, for a place that is probably near the beginning. */
static inline size_t
AR (gallop) (const AR (range) * at, size_t n, AR_KEY key)
{
  size_t step = 1;
  if (n == 0 || at[0].last >= key)
    return 0;
  while (step < n && at[step].last < key)
    step *= 2;
  size_t low = step / 2;
  return low + AR (seek) (at + low, (step < n ? step + 1 : n) - low, key);
}

static inline size_t
AR (append) (AR (range) * out, size_t n, AR_KEY first, AR_KEY last)
{
  if (n > 0 && AR (touches) (out[n - 1].last, first))
    {
      if (last > out[n - 1].last)
	out[n - 1].last = last;
      return n;
    }
  out[n] = (AR (range)){ first, last };
  return n + 1;
}

/* Room: na + nb. What lies between two ranges of the other set is copied at one stroke. */
static inline size_t
AR (unite) (const AR (range) * a, size_t na, const AR (range) * b, size_t nb, AR (range) * out)
{
  size_t n = 0;
  while (na > 0 && nb > 0)
    {
      if (b->first < a->first)
	{
	  const AR (range) *other = a;
	  size_t count = na;
	  a = b, na = nb, b = other, nb = count;
	}
      if (n == 0 || !AR (touches) (out[n - 1].last, a->first))
	{
	  /* ranges of a that end before b begins, without touching it; b->first > a->first >= 0 unless both begin at once */
	  size_t run = b->first == a->first ? 0 : AR (gallop) (a, na, (AR_KEY) (b->first - 1));
	  if (run > 0)
	    {
	      memcpy (out + n, a, run * sizeof *a);
	      n += run, a += run, na -= run;
	      continue;
	    }
	}
      n = AR (append) (out, n, a->first, a->last);
      a++, na--;
    }
  if (na == 0)
    a = b, na = nb;
  while (na > 0 && n > 0 && AR (touches) (out[n - 1].last, a->first))
    {
      n = AR (append) (out, n, a->first, a->last);
      a++, na--;
    }
  if (na > 0)
    memcpy (out + n, a, na * sizeof *a);
  return n + na;
}

/* Room: na + nb. */
static inline size_t
AR (intersect) (const AR (range) * a, size_t na, const AR (range) * b, size_t nb, AR (range) * out)
{
  size_t n = 0, i = 0, k = 0;
  for (;;)
    {
      if (i < na && k < nb)
	i += AR (gallop) (a + i, na - i, b[k].first);
      if (i < na && k < nb)
	k += AR (gallop) (b + k, nb - k, a[i].first);
      if (i >= na || k >= nb)
	return n;
      AR_KEY first = a[i].first > b[k].first ? a[i].first : b[k].first;
      AR_KEY last = a[i].last < b[k].last ? a[i].last : b[k].last;
      if (first <= last)
	out[n++] = (AR (range)){ first, last };
      if (a[i].last == last)
	i++;
      else if (b[k].last == last)
	k++;
    }
}

/* a less b. Room: na + nb. */
static inline size_t
AR (subtract) (const AR (range) * a, size_t na, const AR (range) * b, size_t nb, AR (range) * out)
{
  size_t n = 0;
  while (na > 0)
    {
      size_t skip = AR (gallop) (b, nb, a->first);
      if (skip == nb)
	{
	  memcpy (out + n, a, na * sizeof *a);
	  return n + na;
	}
      b += skip, nb -= skip;
      size_t run = AR (gallop) (a, na, b->first);
      if (run > 0)
	{
	  memcpy (out + n, a, run * sizeof *a);
	  n += run, a += run, na -= run;
	  continue;
	}
      AR_KEY first = a->first, last = a->last;
      int left = 1;
      for (; nb > 0 && b->first <= last; b++, nb--)
	{
	  if (b->first > first)
	    out[n++] = (AR (range)){ first, (AR_KEY) (b->first - 1) };
	  if (b->last >= last)
	    {
	      left = 0; /* b may reach into the next range of a: it stays */
	      break;
	    }
	  first = (AR_KEY) (b->last + 1);
	}
      if (left)
	out[n++] = (AR (range)){ first, last };
      a++, na--;
    }
  return n;
}

static inline int
AR (has) (const AR (range) * at, size_t n, AR_KEY first, AR_KEY last)
{
  size_t i = AR (seek) (at, n, first);
  return i < n && at[i].first <= first && last <= at[i].last;
}

/* Whether b is a subset of a. */
static inline int
AR (covers) (const AR (range) * a, size_t na, const AR (range) * b, size_t nb)
{
  for (; nb > 0; b++, nb--)
    {
      size_t skip = AR (gallop) (a, na, b->first);
      if (skip == na)
	return 0;
      a += skip, na -= skip;
      if (a->first > b->first || b->last > a->last)
	return 0;
    }
  return 1;
}

static inline int
AR (disjoint) (const AR (range) * a, size_t na, const AR (range) * b, size_t nb)
{
  while (na > 0 && nb > 0)
    {
      size_t skip = AR (gallop) (a, na, b->first);
      a += skip, na -= skip;
      if (na == 0)
	break;
      if (a->first <= b->last)
	return 0;
      skip = AR (gallop) (b, nb, a->first);
      b += skip, nb -= skip;
    }
  return 1;
}

/* Sorts any ranges by where they begin, with as much room again in spare. */
static inline void
AR (sort) (AR (range) * at, size_t n, AR (range) * spare)
{
  AR (range) *from = at, *to = spare;
  size_t sorted = 1;
  while (sorted < n && at[sorted - 1].first <= at[sorted].first)
    sorted++;
  if (sorted >= n)
    return;
  for (size_t width = 1; width < n; width *= 2)
    {
      for (size_t start = 0; start < n; start += 2 * width)
	{
	  size_t i = start, middle = start + width < n ? start + width : n, k = middle;
	  size_t end = start + 2 * width < n ? start + 2 * width : n;
	  for (size_t o = start; o < end; o++)
	    to[o] = i < middle && (k >= end || from[i].first <= from[k].first) ? from[i++] : from[k++];
	}
      AR (range) *other = from;
      from = to, to = other;
    }
  if (from != at)
    memcpy (at, from, n * sizeof *at);
}

/* Makes a set of any ranges, in place; spare has room for n. Returns how many are left. */
static inline size_t
AR (settle) (AR (range) * at, size_t n, AR (range) * spare)
{
  size_t out = 0;
  AR (sort) (at, n, spare);
  for (size_t i = 0; i < n; i++)
    out = AR (append) (at, out, at[i].first, at[i].last);
  return out;
}

/* The largest prefix that begins at first and does not go past last: its number of host bits. */
static inline unsigned
AR (host_bits) (AR_KEY first, AR_KEY last)
{
  AR_KEY span = (AR_KEY) (last - first);
  /* 2^bits - 1 <= span */
  unsigned fits = span == AR_MAX ? (unsigned) sizeof (AR_KEY) * 8 : AR_LOG2 ((AR_KEY) (span + 1));
  unsigned aligned = first == 0 ? (unsigned) sizeof (AR_KEY) * 8 : AR_CTZ (first);
  return aligned < fits ? aligned : fits;
}

static inline AR_KEY
AR (host_mask) (unsigned bits)
{
  return bits >= sizeof (AR_KEY) * 8 ? AR_MAX : (AR_KEY) (((AR_KEY) 1 << bits) - 1);
}

/* How many prefixes cover the ranges exactly; at least that many are needed. */
static inline size_t
AR (prefixes) (const AR (range) * at, size_t n)
{
  size_t count = 0;
  for (size_t i = 0; i < n; i++)
    for (AR_KEY first = at[i].first;; count++)
      {
	AR_KEY end = (AR_KEY) (first + AR (host_mask) (AR (host_bits) (first, at[i].last)));
	if (end == at[i].last)
	  {
	    count++;
	    break;
	  }
	first = (AR_KEY) (end + 1);
      }
  return count;
}

static inline size_t
AR (append_labelled) (AR (range) * out, uint32_t *labels, size_t n, AR_KEY first, AR_KEY last, uint32_t label)
{
  if (n > 0 && labels[n - 1] == label && AR (touches) (out[n - 1].last, first))
    {
      out[n - 1].last = last;
      return n;
    }
  out[n] = (AR (range)){ first, last };
  labels[n] = label;
  return n + 1;
}

/* Two maps laid over each other: every stretch where the pair of labels is the same becomes a range whose label is that
 * pair's number. both: only where both maps have something. Room: 2 * (na + nb). Returns SIZE_MAX without memory for
 * the pairs. */
static inline size_t
AR (overlay) (const AR (range) * a, const uint32_t *la, size_t na, const AR (range) * b, const uint32_t *lb, size_t nb,
	      int both, acl_pairs *pairs, AR (range) * out, uint32_t *labels)
{
  size_t n = 0, i = 0, k = 0;
  AR_KEY from = 0; /* everything before it is done */
  while (i < na || k < nb)
    {
      AR_KEY fa = i < na ? (a[i].first > from ? a[i].first : from) : AR_MAX;
      AR_KEY fb = k < nb ? (b[k].first > from ? b[k].first : from) : AR_MAX;
      int has_a = i < na && (k >= nb || fa <= fb), has_b = k < nb && (i >= na || fb <= fa);
      AR_KEY first = has_a ? fa : fb, last;
      if (has_a && has_b)
	last = a[i].last < b[k].last ? a[i].last : b[k].last;
      else if (has_a)
	last = k < nb && fb <= a[i].last ? (AR_KEY) (fb - 1) : a[i].last;
      else
	last = i < na && fa <= b[k].last ? (AR_KEY) (fa - 1) : b[k].last;
      if (!both || (has_a && has_b))
	{
	  uint32_t label = acl_pair (pairs, has_a ? la[i] : 0, has_b ? lb[k] : 0);
	  if (label == 0)
	    return SIZE_MAX;
	  n = AR (append_labelled) (out, labels, n, first, last, label);
	}
      if (i < na && a[i].last <= last)
	i++;
      if (k < nb && b[k].last <= last)
	k++;
      if (last == AR_MAX)
	break;
      from = (AR_KEY) (last + 1);
    }
  return n;
}

/* Gives every range the label that its old one stands for, numbered anew in order of appearance: kind[old] is a group
 * or 0 to drop the range, number[group] the new label once it has one. In place; returns how many ranges are left. */
static inline size_t
AR (relabel) (AR (range) * at, uint32_t *labels, size_t n, const uint32_t *kind, uint32_t *number, uint32_t *next)
{
  size_t out = 0;
  for (size_t i = 0; i < n; i++)
    {
      uint32_t group = kind[labels[i]];
      if (group == 0)
	continue;
      if (number[group] == 0)
	number[group] = ++*next;
      out = AR (append_labelled) (at, labels, out, at[i].first, at[i].last, number[group]);
    }
  return out;
}

/* The set of keys whose label is kept. Room: n. */
static inline size_t
AR (select) (const AR (range) * at, const uint32_t *labels, size_t n, const uint8_t *kept, AR (range) * out)
{
  size_t count = 0;
  for (size_t i = 0; i < n; i++)
    if (kept[labels[i]])
      count = AR (append) (out, count, at[i].first, at[i].last);
  return count;
}

/* One of the three operations into memory of its own, exactly as much as it needs. -1 without memory. */
static inline int
AR (combine) (enum acl_operation operation, const AR (range) * a, size_t na, const AR (range) * b, size_t nb,
	      AR (range) * *result, size_t *n)
{
  AR (range) *out = malloc ((na + nb + 1) * sizeof *out);
  if (!out)
    return -1;
  *n = operation == ACL_UNITE	     ? AR (unite) (a, na, b, nb, out)
       : operation == ACL_INTERSECT ? AR (intersect) (a, na, b, nb, out)
				    : AR (subtract) (a, na, b, nb, out);
  AR (range) *fitted = *n < na + nb ? realloc (out, (*n + 1) * sizeof *out) : out;
  *result = fitted ? fitted : out;
  return 0;
}

#undef AR_KEY
#undef AR
#undef AR_MAX
#undef AR_CTZ
#undef AR_LOG2
