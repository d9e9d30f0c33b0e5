/* Reading a segment that changes meanwhile; see stats.h. */
#include "stats.h"

#include <string.h>

enum { AT_VERSION = 0, AT_BASE = 8, AT_EPOCH = 16, AT_IN_PROGRESS = 24, AT_DIRECTORY = 32, HEADER = 40 };

static uint64_t
load (const cs_segment *segment, size_t offset)
{
  /* the mapping is page-aligned and the header's fields are 8-aligned */
  return __atomic_load_n ((const uint64_t *) (const void *) (segment->data + offset), __ATOMIC_ACQUIRE);
}

uint64_t
cs_u64 (const cs_segment *segment, int64_t offset)
{
  uint64_t value;
  memcpy (&value, segment->data + offset, 8);
  return value;
}

int
cs_check (const cs_segment *segment)
{
  if (segment->size < HEADER)
    return -1;
  return load (segment, AT_VERSION) == CS_VERSION ? 0 : -2;
}

int64_t
cs_epoch (const cs_segment *segment)
{
  /* what was read before this must not drift behind it */
  __atomic_thread_fence (__ATOMIC_ACQUIRE);
  if (load (segment, AT_IN_PROGRESS))
    return -1;
  return (int64_t) (load (segment, AT_EPOCH) & INT64_MAX);
}

int64_t
cs_offset (const cs_segment *segment, uint64_t pointer, uint64_t size)
{
  uint64_t base = load (segment, AT_BASE);
  if (pointer < base || pointer - base > segment->size || size > segment->size - (pointer - base))
    return -1;
  return (int64_t) (pointer - base);
}

int64_t
cs_vector (const cs_segment *segment, uint64_t pointer, uint32_t element, uint32_t *len)
{
  *len = 0;
  if (!pointer)
    return 0;
  int64_t header = cs_offset (segment, pointer - 8, 8);
  if (header < 0)
    return -1;
  uint32_t count;
  memcpy (&count, segment->data + header, 4);
  if (cs_offset (segment, pointer, (uint64_t) count * element) < 0)
    return -1;
  *len = count;
  return header + 8;
}

int64_t
cs_directory (const cs_segment *segment, uint32_t *len)
{
  return cs_vector (segment, load (segment, AT_DIRECTORY), CS_ENTRY, len);
}

void
cs_read_entry (const cs_segment *segment, int64_t offset, cs_entry *entry)
{
  memcpy (&entry->type, segment->data + offset, 4);
  memcpy (&entry->value, segment->data + offset + 8, 8);
  entry->name = (const char *) segment->data + offset + 16;
}
