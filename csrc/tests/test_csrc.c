/* What the C core promises, without Python: bounds, address text, frames, bulk, stats segment. */
#include "../bulk.h"
#include "../codec.h"
#include "../frame.h"
#include "../stats.h"
#include "check.h"

static int
ip4 (const char *text)
{
  uint8_t out[4];
  return cv_parse_ip4 (text, strlen (text), out);
}

static void
test_address_text (void)
{
  uint8_t out[18];
  CHECK (cv_parse_ip4 ("192.0.2.255", 11, out) == 0 && memcmp (out, "\300\0\2\377", 4) == 0);
  const char *bad4[] = { "", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "1.2.3.04", "1..2.3", "1.2.3.4 ", "-1.2.3.4", "1.2.3.1000" };
  for (size_t i = 0; i < sizeof bad4 / sizeof *bad4; i++)
    CHECK (ip4 (bad4[i]) == -1);
  CHECK (cv_parse_ip6 ("2001:db8::1", 11, out) == 0 && out[0] == 0x20 && out[15] == 1);
  CHECK (cv_parse_ip6 ("2001:db8::1::", 13, out) == -1);
  CHECK (cv_parse_ip6 ("1234567890123456789012345678901234567890123456", 46, out) == -1);
  CHECK (cv_parse_prefix ("10.1.2.3/24", 11, out) == 0 && out[0] == 0 && out[4] == 3 && out[17] == 24);
  CHECK (cv_parse_prefix ("::/128", 6, out) == 0 && out[0] == 1 && out[17] == 128);
  const char *bad_prefix[] = { "10.0.0.0", "10.0.0.0/33", "::/129", "/8", "10.0.0.0/", "10.0.0.0/8x", "10.0.0.0/0008" };
  for (size_t i = 0; i < sizeof bad_prefix / sizeof *bad_prefix; i++)
    CHECK (cv_parse_prefix (bad_prefix[i], strlen (bad_prefix[i]), out) == -1);
  CHECK (cv_parse_mac ("de:ad:BE-ef.0001", 16, out) == 0 && memcmp (out, "\xde\xad\xbe\xef\0\1", 6) == 0);
  CHECK (cv_parse_mac ("de:ad:be:ef:00", 14, out) == -1);
  CHECK (cv_parse_mac ("de:ad:be:ef:00:01:02", 20, out) == -1);
  CHECK (cv_parse_mac ("de:ad:be:ef:00:0g", 17, out) == -1);
}

static void
test_measure (void)
{
  /* u8 count, then count elements of 2 bytes */
  cv_op ops[] = { { .kind = CV_U8, .shape = CV_ONE, .size = 1 },
		  { .kind = CV_U16, .shape = CV_VLA, .size = 2, .offset = 1, .length_offset = 0, .length_kind = CV_U8 } };
  cv_program inner = { .ops = ops, .nops = 2, .size = 1, .tail = &ops[1] };
  size_t at = 0;
  CHECK (cv_measure (&inner, (const uint8_t *) "\2abcd", 5, &at) == 5);
  CHECK (cv_measure (&inner, (const uint8_t *) "\2abc", 4, &at) == -1 && at == 4);
  CHECK (cv_measure (&inner, (const uint8_t *) "", 0, &at) == -1 && at == 0);
  /* three of them */
  cv_op three = { .kind = CV_STRUCT, .shape = CV_FIXED, .count = 3, .sub = &inner, .size = 1 };
  cv_program outer = { .ops = &three, .nops = 1, .tail = &three };
  CHECK (cv_measure (&outer, (const uint8_t *) "\1ab\0\1cd", 7, &at) == 7);
  CHECK (cv_measure (&outer, (const uint8_t *) "\1ab\0\1c", 6, &at) == -1 && at == 6);
  /* a count of four billion elements must not wrap */
  cv_op big[] = { { .kind = CV_U32, .shape = CV_ONE, .size = 4 },
		  { .kind = CV_BYTES, .shape = CV_VLA, .size = 0x10000, .offset = 4, .length_kind = CV_U32 } };
  cv_program wide = { .ops = big, .nops = 2, .size = 4, .tail = &big[1] };
  CHECK (cv_measure (&wide, (const uint8_t *) "\xff\xff\xff\xff....", 8, &at) == -1);
  cv_op text = { .kind = CV_STRING, .shape = CV_VSTRING };
  cv_program string = { .ops = &text, .nops = 1, .tail = &text };
  CHECK (cv_measure (&string, (const uint8_t *) "\0\0\0\2hi", 6, &at) == 6);
  CHECK (cv_measure (&string, (const uint8_t *) "\xff\xff\xff\xffhi", 6, &at) == -1);
  CHECK (cv_measure (&string, (const uint8_t *) "\0\0", 2, &at) == -1);
}

static void
test_frames (void)
{
  uint8_t stream[64] = { 0 };
  cf_frame frame;
  cf_write_header (stream, 3);
  memcpy (stream + 16, "abc", 3);
  CHECK (cf_next (stream, 15, 100, &frame) == CF_MORE && frame.used == 0);
  CHECK (cf_next (stream, 18, 100, &frame) == CF_MORE && frame.used == 19);
  CHECK (cf_next (stream, 64, 100, &frame) == CF_WHOLE && frame.len == 3 && frame.used == 19);
  CHECK (memcmp (frame.message, "abc", 3) == 0);
  CHECK (cf_next (stream, 64, 2, &frame) == CF_TOO_LONG);
}

static void
test_bulk (void)
{
  cb_layout layout = { .fixed = 2, .element = 2, .count_offset = 1, .count_kind = CV_U8 };
  const uint8_t fixed[] = "A\2B\0C\1", tails[] = "xxyyzz";
  const uint32_t counts[] = { 2, 0, 1 };
  uint8_t out[12 + 48];
  cb_join (&layout, 3, fixed, tails, counts, 0, out);
  CHECK (memcmp (out, "A\2xxyyB\0C\1zz", 12) == 0);
  cb_join (&layout, 3, fixed, tails, counts, 1, out);
  CHECK (cv_load32 (out + 8) == 6 && memcmp (out + 16, "A\2xxyy", 6) == 0);
  const uint8_t *messages[] = { (const uint8_t *) "A\2xxyy", (const uint8_t *) "B\0", (const uint8_t *) "C\1zz" };
  size_t lens[] = { 6, 2, 4 }, bad = 9;
  uint8_t got_fixed[6], got_tails[6];
  uint32_t got[3];
  CHECK (cb_split_fixed (&layout, 3, messages, lens, got_fixed, got, &bad) == 3);
  cb_split_tails (&layout, 3, messages, got, got_tails);
  CHECK (memcmp (got_fixed, fixed, 6) == 0 && memcmp (got_tails, tails, 6) == 0);
  lens[2] = 3;
  CHECK (cb_split_fixed (&layout, 3, messages, lens, got_fixed, got, &bad) == -1 && bad == 2);
}

static void
test_stats (void)
{
  static _Alignas (8) uint8_t raw[512];
  cs_segment segment = { raw, sizeof raw };
  const uint64_t base = 0x100000000ull;
  uint64_t header[] = { CS_VERSION, base, 7, 0, base + 64 };
  uint32_t n = 1, type = CS_SCALAR;
  memcpy (raw, header, sizeof header);
  memcpy (raw + 56, &n, 4);
  memcpy (raw + 64, &type, 4);
  memcpy (raw + 80, "/x", 3);
  CHECK (cs_check (&segment) == 0 && cs_epoch (&segment) == 7);
  CHECK (cs_directory (&segment, &n) == 64 && n == 1);
  cs_entry entry;
  cs_read_entry (&segment, 64, &entry);
  CHECK (entry.type == CS_SCALAR && strcmp (entry.name, "/x") == 0);
  n = 4;
  memcpy (raw + 56, &n, 4);
  CHECK (cs_directory (&segment, &n) == -1);
  CHECK (cs_vector (&segment, base - 8, 1, &n) == -1);
  CHECK (cs_vector (&segment, UINT64_MAX, 1, &n) == -1);
  CHECK (cs_vector (&segment, 4, 1, &n) == -1);
  CHECK (cs_vector (&segment, 0, 8, &n) == 0 && n == 0);
  raw[24] = 1;
  CHECK (cs_epoch (&segment) == -1);
  cs_segment small = { raw, 39 };
  CHECK (cs_check (&small) == -1);
  raw[0] = 1;
  CHECK (cs_check (&segment) == -2);
}

int
main (void)
{
  test_address_text ();
  test_measure ();
  test_frames ();
  test_bulk ();
  test_stats ();
  printf ("csrc: %d checks, %d failed\n", checks, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
