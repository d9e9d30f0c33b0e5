/* Shared memory with VPP, through VPP's own client library, opened at run time from the VPP that runs.
 *
 * The layout of the shared segment is private to a build of VPP, so nothing of it is known here: libvppapiclient
 * writes, reads and frees. It has one connection a process and calls that never return when VPP dies; each of them
 * therefore runs in a thread of its own that is given up at a deadline or when the caller says so. After that the
 * library is not used again in this process. */
#ifndef CONTIV_SHM_H
#define CONTIV_SHM_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum csm_status
{
  CSM_OK = 0,
  CSM_NO_LIBRARY = -1, /* it cannot be opened, or lacks a function: csm_error says which */
  CSM_REFUSED = -2,    /* the library returned an error */
  CSM_TIMEOUT = -3,
  CSM_STOPPED = -4,
  CSM_BROKEN = -5, /* given up before in this process, or connected already */
};

/* Requests of one size and their replies of one kind. */
typedef struct
{
  const uint8_t *requests; /* n of them, stride bytes apart, each skip bytes behind its place */
  uint32_t n, stride, skip, size;
  uint32_t window; /* in flight at once: below the queue length given to csm_connect */
  uint16_t reply_id;
  uint32_t context_offset, base; /* of the replies; context of the first request */
  uint8_t *rows;		 /* n of row_size bytes */
  uint32_t row_size;
  uint8_t *seen; /* n */
  double timeout_s;
  atomic_int stop; /* set by another thread to give up */
  _Atomic uint32_t answered;
  uint32_t strays, refused; /* replies that nobody waits for; requests that the library did not take */
} csm_job;

const char *csm_error (void);
int csm_connect (const char *library, const char *name, const char *prefix, int queue_length, double timeout_s);
/* Number of a message, from VPP's table; 0 when it has none. */
int csm_message_index (const char *name_and_crc);
int csm_exchange (csm_job *job);
int csm_disconnect (double timeout_s);

#endif
