/* Frames of VPP's API socket: 16 bytes (u64 queue, u32 length, u32 timestamp; only the length matters), message.
 *
 * In: what was read from the socket so far. Out: where the next whole message stands. Refuses lengths above the
 * caller's limit, since they mean that the stream is not what it should be. (VPP api_common.h, struct msgbuf_) */
#ifndef CONTIV_FRAME_H
#define CONTIV_FRAME_H

#include "codec.h"

enum { CF_HEADER = 16 };
enum cf_state { CF_MORE = 0, CF_WHOLE = 1, CF_TOO_LONG = -1 };

typedef struct
{
  const uint8_t *message;
  uint32_t len;  /* of the message */
  size_t used;   /* bytes of the frame; for CF_MORE: bytes that it will have, 0 while that is unknown */
} cf_frame;

static inline enum cf_state
cf_next (const uint8_t *data, size_t len, uint32_t limit, cf_frame *frame)
{
  frame->message = NULL;
  frame->len = 0;
  frame->used = 0;
  if (len < CF_HEADER)
    return CF_MORE;
  frame->len = cv_load32 (data + 8);
  if (frame->len > limit)
    return CF_TOO_LONG;
  frame->used = CF_HEADER + (size_t) frame->len;
  if (len < frame->used)
    return CF_MORE;
  frame->message = data + CF_HEADER;
  return CF_WHOLE;
}

static inline void
cf_write_header (uint8_t *at, uint32_t len)
{
  memset (at, 0, CF_HEADER);
  cv_store32 (at + 8, len);
}

#endif
