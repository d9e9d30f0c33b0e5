/* A stats segment from the input: every vector, name and entry that is found must lie inside of it. */
#include "../stats.h"

#include <stdlib.h>
#include <string.h>

enum { SEGMENT = 4096, MAX_LOOK = 64 };

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

static unsigned sum;

static void
touch (const cs_segment *segment, int64_t offset, uint64_t n)
{
  if (offset < 0 || (uint64_t) offset > segment->size || n > segment->size - (uint64_t) offset)
    abort ();
  for (uint64_t i = 0; i < n; i++)
    sum += segment->data[(uint64_t) offset + i];
}

static void
follow (const cs_segment *segment, uint64_t pointer)
{
  static const uint32_t ELEMENTS[] = { 1, 8, 16 };
  for (int i = 0; i < 3; i++)
    {
      uint32_t n = 0;
      int64_t at = cs_vector (segment, pointer, ELEMENTS[i], &n);
      if (at >= 0)
	touch (segment, at, (uint64_t) n * ELEMENTS[i]);
      if (at >= 0 && i == 1)
	for (uint32_t k = 0; k < n && k < MAX_LOOK; k++)
	  {
	    uint32_t inner = 0;
	    int64_t inside = cs_vector (segment, cs_u64 (segment, at + 8 * (int64_t) k), 16, &inner);
	    if (inside >= 0)
	      touch (segment, inside, (uint64_t) inner * 16);
	  }
    }
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  /* the mapping is page-aligned in life: keep the header's fields aligned */
  size_t whole = size & ~(size_t) 7;
  uint8_t *copy = aligned_alloc (8, whole ? whole : 8);
  cs_segment segment = { copy, whole };
  uint32_t n = 0;
  if (!copy)
    return 0;
  memcpy (copy, data, whole);
  if (cs_check (&segment) == 0)
    {
      int64_t at = cs_directory (&segment, &n);
      cs_epoch (&segment);
      for (uint32_t i = 0; at >= 0 && i < n && i < MAX_LOOK; i++)
	{
	  cs_entry entry;
	  cs_read_entry (&segment, at + (int64_t) i * CS_ENTRY, &entry);
	  touch (&segment, entry.name - (const char *) segment.data, CS_NAME);
	  follow (&segment, entry.value);
	}
    }
  free (copy);
  return 0;
}
