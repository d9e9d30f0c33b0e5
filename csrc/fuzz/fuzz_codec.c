/* A program (schema) and a message, both from the input: measuring must stay inside of the message.
 *
 * Input: count of ops, then for each 6 bytes (kind, shape, size, count, length field, nested), then the message.
 * The rules that the compiler of schemas keeps are kept here: only the last op is of variable size. */
#include "../bulk.h"
#include "../codec.h"
#include "../frame.h"

#include <stdlib.h>

enum { MAX_OPS = 12, OP_BYTES = 6, PROGRAMS = 3 };

static const uint32_t SCALAR[] = { 1, 1, 2, 2, 4, 4, 8, 8, 8, 1 };

typedef struct
{
  cv_op ops[MAX_OPS];
  cv_program program;
} built;

static size_t
build (built *out, const built *nested, const uint8_t *data, size_t size)
{
  size_t used = 1;
  uint32_t n = size ? data[0] % (MAX_OPS + 1) : 0;
  memset (out, 0, sizeof *out);
  out->program.ops = out->ops;
  for (uint32_t i = 0; i < n && used + OP_BYTES <= size; i++, used += OP_BYTES)
    {
      const uint8_t *in = data + used;
      cv_op *op = &out->ops[out->program.nops];
      op->kind = in[0] % (CV_UNION + 1);
      op->shape = in[1] % (CV_VSTRING + 1);
      op->size = op->kind <= CV_BOOL ? SCALAR[op->kind] : in[2];
      op->count = in[3];
      op->offset = out->program.size;
      if (op->kind >= CV_STRUCT)
	{
	  if (!nested)
	    continue;
	  op->sub = &nested->program;
	  op->size = nested->program.size;
	}
      if (op->shape == CV_VLA)
	{
	  const cv_op *counter = out->program.nops ? &out->ops[in[4] % out->program.nops] : NULL;
	  if (!counter || counter->shape != CV_ONE || !op->size
	      || (counter->kind != CV_U8 && counter->kind != CV_U16 && counter->kind != CV_U32))
	    continue;
	  op->length_offset = counter->offset;
	  op->length_kind = counter->kind;
	}
      out->program.nops++;
      if (op->shape == CV_VLA || op->shape == CV_VSTRING || (op->sub && op->sub->tail))
	{
	  if (op->shape == CV_FIXED && !op->size)
	    op->count = 0;
	  out->program.tail = op;
	  used += OP_BYTES;
	  break;
	}
      out->program.size += op->size * (op->shape == CV_FIXED ? op->count : 1);
    }
  return used < size ? used : size;
}

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static built programs[PROGRAMS];
  size_t at = 0, error_at = 0;
  for (int i = 0; i < PROGRAMS; i++)
    at += build (&programs[i], i ? &programs[i - 1] : NULL, data + at, size - at);
  for (int i = 0; i < PROGRAMS; i++)
    {
      int64_t n = cv_measure (&programs[i].program, data + at, size - at, &error_at);
      if (n > (int64_t) (size - at) || (n < 0 && error_at > size - at))
	abort ();
    }
  uint8_t out[18];
  const char *text = (const char *) data;
  cv_parse_prefix (text, size, out);
  cv_parse_address (text, size, out);
  cv_parse_ip4 (text, size, out);
  cv_parse_ip6 (text, size, out);
  cv_parse_mac (text, size, out);
  cf_frame frame;
  for (size_t pos = 0; cf_next (data + pos, size - pos, 1 << 16, &frame) == CF_WHOLE; pos += frame.used)
    if (frame.message + frame.len > data + size)
      abort ();
  if (size > 8)
    {
      cb_layout layout = { data[0] + 4u, data[1], data[2] % (data[0] + 1u), (uint8_t[]){ CV_U8, CV_U16, CV_U32 }[data[3] % 3] };
      uint32_t count;
      int64_t n = cb_measure (&layout, data + 4, size - 4, &count);
      if (n > (int64_t) (size - 4))
	abort ();
    }
  return 0;
}
