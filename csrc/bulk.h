/* Many messages at once: fixed parts and tails between contiguous arrays and a stream of messages.
 *
 * A message is described flat: bytes of its fixed part, where its count stands, bytes of one element of its array
 * (0 when it has none). In: arrays of the caller, or messages from VPP. Out: bytes written, or -1 and the index and
 * offset of the message that is too short. Nothing is read outside of what is given. */
#ifndef CONTIV_BULK_H
#define CONTIV_BULK_H

#include "codec.h"

typedef struct
{
  uint32_t fixed;
  uint32_t element;
  uint32_t count_offset;
  uint8_t count_kind;
} cb_layout;

/* Bytes that message takes, -1 when it is longer than len; *count is the number of its elements. */
int64_t cb_measure (const cb_layout *layout, const uint8_t *message, size_t len, uint32_t *count);

/* n fixed parts, each followed by counts[i] elements of tails, to out (room is the caller's affair: see cb_joined).
 * The counts must be those in the fixed parts. framed puts the socket's header before each message. */
void cb_join (const cb_layout *layout, size_t n, const uint8_t *fixed, const uint8_t *tails, const uint32_t *counts,
	      int framed, uint8_t *out);

/* Copies the fixed part of each message to fixed, its count to counts; messages[i] has lens[i] bytes.
 * Returns the total of elements, or -1 with *bad the index of a message that is too short. */
int64_t cb_split_fixed (const cb_layout *layout, size_t n, const uint8_t *const *messages, const size_t *lens,
			uint8_t *fixed, uint32_t *counts, size_t *bad);

/* Copies the elements of all messages, after cb_split_fixed has accepted them, to tails. */
void cb_split_tails (const cb_layout *layout, size_t n, const uint8_t *const *messages, const uint32_t *counts,
		     uint8_t *tails);

#endif
