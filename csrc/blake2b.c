/* BLAKE2b; see blake2b.h. Names and constants are those of RFC 7693, sections 2.6 to 3.3. */
#include "blake2b.h"

#include <string.h>

enum { BLOCK = 128, ROUNDS = 12 };

static const uint64_t IV[8] = { 0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
				0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179 };

static const uint8_t SIGMA[10][16] = {
  { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 }, { 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
  { 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 }, { 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
  { 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 }, { 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
  { 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 }, { 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
  { 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 }, { 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
};

static uint64_t
load64 (const uint8_t *at)
{
  uint64_t value;
  memcpy (&value, at, 8);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
  value = __builtin_bswap64 (value);
#endif
  return value;
}

static inline uint64_t
rotate (uint64_t x, unsigned right)
{
  return x >> right | x << (64 - right);
}

#define G(a, b, c, d, x, y)                                                                                            \
  do                                                                                                                   \
    {                                                                                                                  \
      v[a] = v[a] + v[b] + (x);                                                                                        \
      v[d] = rotate (v[d] ^ v[a], 32);                                                                                 \
      v[c] = v[c] + v[d];                                                                                              \
      v[b] = rotate (v[b] ^ v[c], 24);                                                                                 \
      v[a] = v[a] + v[b] + (y);                                                                                        \
      v[d] = rotate (v[d] ^ v[a], 16);                                                                                 \
      v[c] = v[c] + v[d];                                                                                              \
      v[b] = rotate (v[b] ^ v[c], 63);                                                                                 \
    }                                                                                                                  \
  while (0)

static void
compress (blake2b *state, const uint8_t *block, int last)
{
  uint64_t v[16], m[16];
  for (int i = 0; i < 8; i++)
    v[i] = state->h[i], v[i + 8] = IV[i];
  for (int i = 0; i < 16; i++)
    m[i] = load64 (block + 8 * i);
  v[12] ^= state->count;
  if (last)
    v[14] = ~v[14];
#pragma GCC unroll 12
  for (int round = 0; round < ROUNDS; round++)
    {
      const uint8_t *s = SIGMA[round % 10];
      G (0, 4, 8, 12, m[s[0]], m[s[1]]);
      G (1, 5, 9, 13, m[s[2]], m[s[3]]);
      G (2, 6, 10, 14, m[s[4]], m[s[5]]);
      G (3, 7, 11, 15, m[s[6]], m[s[7]]);
      G (0, 5, 10, 15, m[s[8]], m[s[9]]);
      G (1, 6, 11, 12, m[s[10]], m[s[11]]);
      G (2, 7, 8, 13, m[s[12]], m[s[13]]);
      G (3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
  for (int i = 0; i < 8; i++)
    state->h[i] ^= v[i] ^ v[i + 8];
}

void
blake2b_init (blake2b *state, size_t size)
{
  memcpy (state->h, IV, sizeof IV);
  state->h[0] ^= 0x01010000 ^ size;
  state->count = 0, state->filled = 0, state->size = size;
}

/* The last block is only known at the end, so a full one waits until more comes. */
void
blake2b_add (blake2b *state, const void *data, size_t n)
{
  const uint8_t *at = data;
  while (n > 0)
    {
      if (state->filled == BLOCK)
	{
	  state->count += BLOCK, state->filled = 0;
	  compress (state, state->block, 0);
	}
      if (state->filled == 0)
	for (; n > BLOCK; at += BLOCK, n -= BLOCK)
	  {
	    state->count += BLOCK;
	    compress (state, at, 0);
	  }
      size_t step = n < BLOCK - state->filled ? n : BLOCK - state->filled;
      memcpy (state->block + state->filled, at, step);
      state->filled += step, at += step, n -= step;
    }
}

void
blake2b_end (blake2b *state, uint8_t *out)
{
  state->count += state->filled;
  memset (state->block + state->filled, 0, BLOCK - state->filled);
  compress (state, state->block, 1);
  for (size_t i = 0; i < state->size; i++)
    out[i] = (uint8_t) (state->h[i / 8] >> (8 * (i % 8)));
}
