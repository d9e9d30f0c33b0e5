/* VPP's stats segment: a mapping that another process changes while it is read.
 *
 * All pointers in it are VPP's own addresses; each is turned into an offset and checked against the mapping before it
 * is followed. The epoch grows whenever the directory or a vector is allocated anew (not when counters count), and
 * in_progress is set meanwhile: what was read is valid when both are as before. (VPP vlib/stats/shared.h, version 2) */
#ifndef CONTIV_STATS_H
#define CONTIV_STATS_H

#include <stddef.h>
#include <stdint.h>

enum { CS_VERSION = 2, CS_NAME = 128, CS_ENTRY = 144 };

enum cs_type
{
  CS_ILLEGAL,
  CS_SCALAR,
  CS_SIMPLE,
  CS_COMBINED,
  CS_NAMES,
  CS_EMPTY,
  CS_SYMLINK,
  CS_HISTOGRAM,
  CS_RING,
  CS_GAUGE,
};

typedef struct
{
  const uint8_t *data;
  size_t size;
} cs_segment;

typedef struct
{
  uint32_t type;
  uint64_t value; /* scalar; pointer; or two indices of a symlink, the first in the low half */
  const char *name; /* CS_NAME bytes, NUL inside when ok */
} cs_entry;

/* 0 when the segment is one that can be read; -1 when it is too small, -2 when it has another version. */
int cs_check (const cs_segment *segment);
/* The epoch, or -1 while VPP changes something. */
int64_t cs_epoch (const cs_segment *segment);
/* Offset of a pointer of VPP with at least size bytes behind it, or -1. */
int64_t cs_offset (const cs_segment *segment, uint64_t pointer, uint64_t size);
/* Offset of a vector's first element (and its length), or -1 when it does not lie in the segment.
 * The pointer 0 is the empty vector: offset 0, length 0. */
int64_t cs_vector (const cs_segment *segment, uint64_t pointer, uint32_t element, uint32_t *len);
/* The directory: as cs_vector. */
int64_t cs_directory (const cs_segment *segment, uint32_t *len);
/* Entry at an offset that cs_directory vouched for. */
void cs_read_entry (const cs_segment *segment, int64_t offset, cs_entry *entry);
/* One u64 of the segment; the caller has checked the offset. */
uint64_t cs_u64 (const cs_segment *segment, int64_t offset);

#endif
