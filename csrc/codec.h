/* Wire format of VPP's binary API: flat programs, bounds, byte order, address text.
 *
 * A message or nested type is compiled once into a cv_program: an array of ops with fixed offsets, plus the image
 * of its fixed part with every default filled in. Encoding copies the image and overwrites what was given; decoding
 * calls cv_measure once, which checks every bound, and then reads without further checks.
 *
 * In: programs built by the caller, bytes from VPP or from an attacker. Out: sizes, offsets of errors, packed bytes.
 * Plain C11, no Python: csrc/tests and csrc/fuzz build it alone. The caller owns all memory.
 * Facts: messages are packed, integers big-endian, f64 in host order (VPP api_helper_macros.h); whatever has a
 * variable length stands last in its type. */
#ifndef CONTIV_CODEC_H
#define CONTIV_CODEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum cv_kind {
  CV_U8,
  CV_I8,
  CV_U16,
  CV_I16,
  CV_U32,
  CV_I32,
  CV_U64,
  CV_I64,
  CV_F64,
  CV_BOOL,
  CV_BYTES,  /* u8[size] */
  CV_STRING, /* string[size], padded with NUL */
  CV_STRUCT, /* sub */
  CV_UNION,  /* sub: each op at offset 0, size of the largest */
};

enum cv_shape {
  CV_ONE,
  CV_FIXED,   /* count elements */
  CV_VLA,     /* as many elements as the field at length_offset says */
  CV_VSTRING, /* u32 length, then bytes */
};

typedef struct cv_program cv_program;

typedef struct {
  uint8_t kind;
  uint8_t shape;
  uint8_t conv;        /* the binding's business: which Python type stands for the value */
  uint8_t length_kind; /* CV_VLA: kind of the field that counts */
  uint32_t offset;     /* from the start of the program's bytes; for the tail: size of the fixed part */
  uint32_t size;       /* bytes of one element (of its fixed part when it is variable) */
  uint32_t count;
  uint32_t length_offset;
  const cv_program *sub;
} cv_op;

struct cv_program {
  const cv_op *ops;
  uint32_t nops;
  uint32_t size;     /* of the fixed part */
  const cv_op *tail; /* the one op of variable size, always the last; NULL when the size is fixed */
  const uint8_t *image;
};

/* Bytes that a message of this program takes at the start of data[0..len).
 * -1 when data ends too early; *error_at is then the offset at which bytes are missing. */
int64_t cv_measure (const cv_program *program, const uint8_t *data, size_t len, size_t *error_at);

/* Text of length len to bytes. 0 when done, -1 when the text is none. text needs no NUL. */
int cv_parse_ip4 (const char *text, size_t len, uint8_t out[4]);
int cv_parse_ip6 (const char *text, size_t len, uint8_t out[16]);
/* vl_api_address_t: family 0 or 1, then 16 bytes */
int cv_parse_address (const char *text, size_t len, uint8_t out[17]);
/* vl_api_prefix_t: address, then the length; host bits are kept */
int cv_parse_prefix (const char *text, size_t len, uint8_t out[18]);
/* "aa:bb:cc:dd:ee:ff", with ':', '-', '.' or nothing between the digits */
int cv_parse_mac (const char *text, size_t len, uint8_t out[6]);
/* Position of the '/' and the number behind it, 0..128; -1 when there is none. */
int cv_split_prefix (const char *text, size_t len, size_t *address_len);

static inline uint16_t
cv_load16 (const uint8_t *p)
{
  uint16_t v;
  memcpy (&v, p, 2);
  return __builtin_bswap16 (v);
}

static inline uint32_t
cv_load32 (const uint8_t *p)
{
  uint32_t v;
  memcpy (&v, p, 4);
  return __builtin_bswap32 (v);
}

static inline uint64_t
cv_load64 (const uint8_t *p)
{
  uint64_t v;
  memcpy (&v, p, 8);
  return __builtin_bswap64 (v);
}

static inline void
cv_store16 (uint8_t *p, uint16_t v)
{
  v = __builtin_bswap16 (v);
  memcpy (p, &v, 2);
}

static inline void
cv_store32 (uint8_t *p, uint32_t v)
{
  v = __builtin_bswap32 (v);
  memcpy (p, &v, 4);
}

static inline void
cv_store64 (uint8_t *p, uint64_t v)
{
  v = __builtin_bswap64 (v);
  memcpy (p, &v, 8);
}

static inline double
cv_load_f64 (const uint8_t *p)
{
  double v;
  memcpy (&v, p, 8);
  return v;
}

static inline void
cv_store_f64 (uint8_t *p, double v)
{
  memcpy (p, &v, 8);
}

/* The number in a counting field: u8, u16 or u32. */
static inline uint32_t
cv_load_count (const uint8_t *p, uint8_t kind)
{
  if (kind == CV_U8)
    return p[0];
  return kind == CV_U16 ? cv_load16 (p) : cv_load32 (p);
}

#endif
