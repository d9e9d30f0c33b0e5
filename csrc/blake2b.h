/* BLAKE2b without a key (RFC 7693): digests of up to 64 bytes of any number of bytes, given piece by piece. */
#ifndef CONTIV_BLAKE2B_H
#define CONTIV_BLAKE2B_H

#include <stddef.h>
#include <stdint.h>

typedef struct
{
  uint64_t h[8];
  uint64_t count; /* bytes compressed; 2^64 are enough */
  uint8_t block[128];
  size_t filled, size;
} blake2b;

/* size: bytes of the digest, 1 to 64 */
void blake2b_init (blake2b *state, size_t size);
void blake2b_add (blake2b *state, const void *data, size_t n);
/* size bytes to out; the state is used up */
void blake2b_end (blake2b *state, uint8_t *out);

#endif
