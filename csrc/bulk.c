/* Arrays of messages; see bulk.h. */
#include "bulk.h"

#include "frame.h"

int64_t
cb_measure (const cb_layout *layout, const uint8_t *message, size_t len, uint32_t *count)
{
  *count = 0;
  if (len < layout->fixed)
    return -1;
  if (!layout->element)
    return layout->fixed;
  *count = cv_load_count (message + layout->count_offset, layout->count_kind);
  uint64_t total = layout->fixed + (uint64_t) *count * layout->element;
  return total > len ? -1 : (int64_t) total;
}

void
cb_join (const cb_layout *layout, size_t n, const uint8_t *fixed, const uint8_t *tails, const uint32_t *counts,
	 int framed, uint8_t *out)
{
  for (size_t i = 0; i < n; i++)
    {
      size_t tail = (size_t) counts[i] * layout->element;
      if (framed)
	{
	  cf_write_header (out, (uint32_t) (layout->fixed + tail));
	  out += CF_HEADER;
	}
      memcpy (out, fixed, layout->fixed);
      fixed += layout->fixed;
      out += layout->fixed;
      memcpy (out, tails, tail);
      tails += tail;
      out += tail;
    }
}

int64_t
cb_split_fixed (const cb_layout *layout, size_t n, const uint8_t *const *messages, const size_t *lens, uint8_t *fixed,
		uint32_t *counts, size_t *bad)
{
  int64_t total = 0;
  for (size_t i = 0; i < n; i++)
    {
      if (cb_measure (layout, messages[i], lens[i], &counts[i]) < 0)
	{
	  *bad = i;
	  return -1;
	}
      memcpy (fixed + i * layout->fixed, messages[i], layout->fixed);
      total += counts[i];
    }
  return total;
}

void
cb_split_tails (const cb_layout *layout, size_t n, const uint8_t *const *messages, const uint32_t *counts,
		uint8_t *tails)
{
  for (size_t i = 0; i < n; i++)
    {
      size_t size = (size_t) counts[i] * layout->element;
      memcpy (tails, messages[i] + layout->fixed, size);
      tails += size;
    }
}
