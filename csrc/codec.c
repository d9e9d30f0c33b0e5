/* Bounds of messages and text of addresses; see codec.h. */
#include "codec.h"

#include <arpa/inet.h>

static int64_t
missing (size_t at, size_t *error_at)
{
  *error_at = at;
  return -1;
}

/* n variable elements, one behind the other, from pos on */
static int64_t
measure_elements (const cv_op *op, uint32_t n, const uint8_t *data, size_t len, size_t pos, size_t *error_at)
{
  for (uint32_t i = 0; i < n; i++)
    {
      int64_t used = cv_measure (op->sub, data + pos, len - pos, error_at);
      if (used < 0)
        return missing (pos + *error_at, error_at);
      pos += (size_t) used;
    }
  return (int64_t) pos;
}

int64_t
cv_measure (const cv_program *program, const uint8_t *data, size_t len, size_t *error_at)
{
  const cv_op *tail = program->tail;
  size_t pos = program->size;
  uint64_t need;

  if (len < pos)
    return missing (len, error_at);
  if (!tail)
    return (int64_t) pos;
  if (tail->shape == CV_VSTRING)
    {
      if (len - pos < 4)
        return missing (len, error_at);
      need = 4 + (uint64_t) cv_load32 (data + pos);
    }
  else
    {
      uint32_t n = 1;
      if (tail->shape == CV_VLA)
        n = cv_load_count (data + tail->length_offset, tail->length_kind);
      else if (tail->shape == CV_FIXED)
        n = tail->count;
      if (tail->sub && tail->sub->tail)
        return measure_elements (tail, n, data, len, pos, error_at);
      need = (uint64_t) n * tail->size;
    }
  if (need > len - pos)
    return missing (len, error_at);
  return (int64_t) (pos + need);
}

int
cv_parse_ip4 (const char *text, size_t len, uint8_t out[4])
{
  size_t i = 0;
  for (int part = 0; part < 4; part++)
    {
      unsigned value = 0;
      size_t start = i;
      while (i < len && text[i] >= '0' && text[i] <= '9' && i - start < 3)
        value = value * 10 + (unsigned) (text[i++] - '0');
      /* no empty part, none above 255, no leading zero (inet_pton refuses it: it might mean octal) */
      if (i == start || value > 255 || (i - start > 1 && text[start] == '0'))
        return -1;
      out[part] = (uint8_t) value;
      if (part < 3 && (i >= len || text[i++] != '.'))
        return -1;
    }
  return i == len ? 0 : -1;
}

int
cv_parse_ip6 (const char *text, size_t len, uint8_t out[16])
{
  char copy[INET6_ADDRSTRLEN];
  if (len >= sizeof copy || memchr (text, 0, len))
    return -1;
  memcpy (copy, text, len);
  copy[len] = 0;
  return inet_pton (AF_INET6, copy, out) == 1 ? 0 : -1;
}

int
cv_parse_address (const char *text, size_t len, uint8_t out[17])
{
  memset (out, 0, 17);
  if (cv_parse_ip4 (text, len, out + 1) == 0)
    return 0;
  memset (out + 1, 0, 4);
  out[0] = 1;
  return cv_parse_ip6 (text, len, out + 1);
}

int
cv_split_prefix (const char *text, size_t len, size_t *address_len)
{
  const char *slash = len ? memchr (text, '/', len) : NULL;
  int bits = 0;
  if (!slash)
    return -1;
  *address_len = (size_t) (slash - text);
  size_t digits = len - *address_len - 1;
  if (digits < 1 || digits > 3)
    return -1;
  for (const char *p = slash + 1; p < text + len; p++)
    {
      if (*p < '0' || *p > '9')
        return -1;
      bits = bits * 10 + (*p - '0');
    }
  return bits <= 128 ? bits : -1;
}

int
cv_parse_prefix (const char *text, size_t len, uint8_t out[18])
{
  size_t address_len;
  int bits = cv_split_prefix (text, len, &address_len);
  if (bits < 0 || cv_parse_address (text, address_len, out) < 0 || (out[0] == 0 && bits > 32))
    return -1;
  out[17] = (uint8_t) bits;
  return 0;
}

static int
hex_digit (char c)
{
  if (c >= '0' && c <= '9')
    return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int
cv_parse_mac (const char *text, size_t len, uint8_t out[6])
{
  int digits = 0;
  for (size_t i = 0; i < len; i++)
    {
      int value = hex_digit (text[i]);
      if (value < 0)
        {
          if (text[i] != ':' && text[i] != '-' && text[i] != '.')
            return -1;
          continue;
        }
      if (digits == 12)
        return -1;
      out[digits / 2] = (uint8_t) (digits % 2 ? out[digits / 2] | value : value << 4);
      digits++;
    }
  return digits == 12 ? 0 : -1;
}
