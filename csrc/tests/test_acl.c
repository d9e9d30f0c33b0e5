/* What the access lists promise, without Python: sets against bit masks, rules byte by byte, matching, names. */
#include "../acl.h"
#include "../blake2b.h"
#include "check.h"

enum { ROUNDS = 20000, KEYS = 64 };

static uint64_t seed = 88172645463325252ull;

static uint32_t
rnd (uint32_t below)
{
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (uint32_t) (seed >> 20) % below;
}

/* A random set of the 64 keys from base on, and the mask of what it holds. */
static size_t
random_set (acl4_range *out, uint32_t base, uint64_t *mask)
{
  acl4_range spare[12];
  size_t n = rnd (12);
  *mask = 0;
  for (size_t i = 0; i < n; i++)
    {
      uint32_t first = rnd (KEYS), last = first + rnd (rnd (3) ? 3 : KEYS);
      last = last < KEYS ? last : KEYS - 1;
      out[i] = (acl4_range){ base + first, base + last };
      for (uint32_t key = first; key <= last; key++)
	*mask |= 1ull << key;
    }
  return acl4_settle (out, n, spare);
}

/* Whether the set is canonical and holds what the mask says. */
static int
is_set (const acl4_range *at, size_t n, uint32_t base, uint64_t mask)
{
  for (size_t i = 0; i < n; i++)
    if (at[i].first > at[i].last || (i && (at[i - 1].last >= at[i].first || at[i - 1].last + 1 == at[i].first)))
      return 0;
  for (uint32_t key = 0; key < KEYS; key++)
    if (acl4_has (at, n, base + key, base + key) != (int) (mask >> key & 1))
      return 0;
  return n == 0 || (at[0].first >= base && at[n - 1].last - base < KEYS);
}

static void
test_algebra (void)
{
  static const uint32_t BASES[] = { 0, 0x0a000000, UINT32_MAX - KEYS + 1 };
  for (int round = 0; round < ROUNDS; round++)
    {
      acl4_range a[12], b[12], out[24];
      uint64_t ma, mb;
      uint32_t base = BASES[round % 3];
      size_t na = random_set (a, base, &ma), nb = random_set (b, base, &mb);
      CHECK (is_set (a, na, base, ma));
      CHECK (is_set (out, acl4_unite (a, na, b, nb, out), base, ma | mb));
      CHECK (is_set (out, acl4_intersect (a, na, b, nb, out), base, ma & mb));
      CHECK (is_set (out, acl4_subtract (a, na, b, nb, out), base, ma & ~mb));
      CHECK (acl4_covers (a, na, b, nb) == ((mb & ~ma) == 0));
      CHECK (acl4_disjoint (a, na, b, nb) == ((mb & ma) == 0));
    }
}

/* Prefixes cover a set exactly, and two of them never make one. */
static void
test_prefixes (void)
{
  uint8_t prefixes[256 * ACL_PREFIX];
  for (int round = 0; round < ROUNDS / 10; round++)
    {
      acl4_range ranges[12];
      uint64_t mask, covered = 0;
      uint32_t base = round % 2 ? 0 : UINT32_MAX - KEYS + 1;
      acl_set set = { .r4 = ranges, .n4 = random_set (ranges, base, &mask) };
      size_t n = acl_set_prefixes (&set);
      acl_set_write (&set, prefixes);
      for (size_t i = 0; i < n; i++)
	{
	  const uint8_t *at = prefixes + i * ACL_PREFIX;
	  uint32_t size = 1u << (32 - at[17]), first = acl_load4 (at + 1);
	  CHECK (at[0] == 0 && first % size == 0);
	  for (uint32_t k = 0; k < size; k++)
	    {
	      CHECK (!(covered >> (first - base + k) & 1));
	      covered |= 1ull << (first - base + k);
	    }
	  CHECK (i == 0 || at[17] != at[17 - ACL_PREFIX] || (first & size) == 0 || acl_load4 (at + 1 - ACL_PREFIX) != first - size);
	}
      CHECK (covered == mask);
    }
  acl4_range all4 = { 0, UINT32_MAX };
  acl6_range all6 = { 0, ~(acl_u128) 0 };
  acl_set any = { .r4 = &all4, .r6 = &all6, .n4 = 1, .n6 = 1 };
  CHECK (acl_set_prefixes (&any) == 2);
  acl_set_write (&any, prefixes);
  CHECK (prefixes[0] == 0 && prefixes[17] == 0 && prefixes[18] == 1 && prefixes[35] == 0);
  acl6_range odd = { 1, ~(acl_u128) 0 - 1 };
  acl_set most = { .r6 = &odd, .n6 = 1 };
  CHECK (acl_set_prefixes (&most) == 254);
}

static acl4_range
ports (uint32_t protocol, uint32_t first, uint32_t last)
{
  return (acl4_range){ protocol << 16 | first, protocol << 16 | last };
}

static void
test_ports_seen (void)
{
  acl4_range out[4];
  const acl4_range all = { 0, ACL_PORTS_LAST }, some = ports (132, 80, 90), whole = ports (132, 1, 65535);
  const acl4_range straddling = { 131u << 16 | 5, 133u << 16 | 7 };
  CHECK (acl_ports_seen ((acl_ports){ &all, 1 }, 0, 0, out) == 1 && memcmp (out, &all, sizeof all) == 0);
  CHECK (acl_ports_seen ((acl_ports){ &some, 1 }, 0, 0, out) == 0);
  CHECK (acl_ports_seen ((acl_ports){ &some, 1 }, 0, 1, out) == 1 && out->first == 132u << 16 && out->last == (132u << 16 | 65535));
  CHECK (acl_ports_seen ((acl_ports){ &whole, 1 }, 0, 0, out) == 1 && out->first == 132u << 16);
  CHECK (acl_ports_seen ((acl_ports){ &straddling, 1 }, 0, 0, out) == 1 && out->first == 132u << 16 && out->last == (132u << 16 | 65535));
  CHECK (acl_ports_seen ((acl_ports){ &straddling, 1 }, 1, 1, out) == 1 && out->first == 131u << 16 && out->last == (133u << 16 | 65535));
  const acl4_range icmp = ports (ACL_ICMP, 0, 3);
  CHECK (acl_ports_seen ((acl_ports){ &icmp, 1 }, 0, 0, out) == 1 && acl_ports_seen ((acl_ports){ &icmp, 1 }, 1, 0, out) == 0);
}

/* One block: 10.0.0.0/31 and fd00::1 on TCP port 80, to 10.9.0.1 and any of IPv6 there is none. */
static void
test_rules (void)
{
  acl4_range r4 = { 0x0a000000, 0x0a000001 }, own4 = { 0x0a090001, 0x0a090001 }, http = ports (ACL_TCP, 80, 80);
  acl6_range r6 = { (acl_u128) 0xfd00 << 112 | 1, (acl_u128) 0xfd00 << 112 | 1 };
  uint32_t label = 1;
  acl_map map = { .r4 = &r4, .r6 = &r6, .l4 = &label, .l6 = &label, .n4 = 1, .n6 = 1 };
  acl_set own = { .r4 = &own4, .n4 = 1 };
  acl_ports of = { &http, 1 };
  acl_block block = { .action = ACL_REFLECT, .own = &own, .map = &map, .ports = &of, .n_ports = 1 };
  acl_rules rules = { 0 };
  static const uint8_t EXPECTED[ACL_RULE] = { 2,	0,    10, 0, 0, 0, [18] = 31, [19] = 0, [20] = 10, 9, 0, 1, [36] = 32, [37] = 6,
					      [40] = 255, 255, 0,  80, 0, 80 };
  CHECK (acl_render (&block, &rules) == 0 && rules.n == 1 && memcmp (rules.wire, EXPECTED, ACL_RULE) == 0);
  block.own = NULL, block.destination = 1;
  CHECK (acl_render (&block, &rules) == 0 && rules.n == 3);
  CHECK (rules.wire[2 * ACL_RULE + 1] == 1 && rules.wire[2 * ACL_RULE + 20] == 0xfd && rules.wire[2 * ACL_RULE + 36] == 128);
  CHECK (acl_render (&block, &rules) == 0 && rules.n == 5);
  CHECK (acl_drop_repeated (&rules, 3) == 0 && rules.n == 3);
  size_t bad = 0;
  CHECK (acl_check (rules.wire, rules.n, &bad) == ACL_FINE);
  rules.wire[ACL_RULE] = 3;
  CHECK (acl_check (rules.wire, rules.n, &bad) == ACL_BAD_ACTION && bad == 1);
  free (rules.wire);
}

static void
test_matching (void)
{
  uint8_t wire[2 * ACL_RULE] = { 1, 0, 10, [18] = 8, [37] = ACL_TCP, [38] = 0, 0, 255, 255, 0, 80, 0, 90, 0x12, 0x02 };
  wire[ACL_RULE] = 2; /* the second: everything of IPv4 */
  acl_packet packet = { .version = 4, .protocol = ACL_TCP, .tcp_flags = 2, .destination_port = 85, .source = { 10, 1 } };
  size_t bad;
  CHECK (acl_check (wire, 2, &bad) == ACL_FINE);
  CHECK (acl_match (wire, 2, &packet) == 0);
  packet.tcp_flags = 0x12;
  CHECK (acl_match (wire, 2, &packet) == 1);
  packet.flags = ACL_FRAGMENT;
  CHECK (acl_match (wire, 2, &packet) == 0);
  packet.flags = ACL_TRUNCATED;
  CHECK (acl_match (wire, 2, &packet) == 1);
  packet.flags = 0, packet.tcp_flags = 2, packet.source[0] = 11;
  CHECK (acl_match (wire, 2, &packet) == 1);
  packet.version = 6;
  CHECK (acl_match (wire, 2, &packet) == -1);
  int32_t line = 7;
  CHECK (acl_match_many (wire, 2, &packet, 1, &line) == 0 && line == -1);
  CHECK (acl_match_many (wire, 0, &packet, 1, &line) == 0 && line == -1);
}

static int
digest_is (size_t n, const char *hexadecimal)
{
  uint8_t data[1000], out[16];
  char text[33] = "";
  blake2b state;
  for (size_t i = 0; i < n; i++)
    data[i] = (uint8_t) i;
  blake2b_init (&state, 16);
  for (size_t at = 0; at < n;)
    {
      size_t step = 1 + rnd (200);
      step = step < n - at ? step : n - at;
      blake2b_add (&state, data + at, step);
      at += step;
    }
  blake2b_end (&state, out);
  for (int i = 0; i < 16; i++)
    snprintf (text + 2 * i, 3, "%02x", out[i]);
  return strcmp (text, hexadecimal) == 0;
}

static void
test_names (void)
{
  static const uint8_t ABC[8] = { 0xba, 0x80, 0xa5, 0x3f, 0x98, 0x1c, 0x4d, 0x0d }; /* RFC 7693, appendix A */
  uint8_t out[64], other[16];
  blake2b state;
  blake2b_init (&state, 64);
  blake2b_add (&state, "abc", 3);
  blake2b_end (&state, out);
  CHECK (memcmp (out, ABC, sizeof ABC) == 0);
  CHECK (digest_is (0, "cae66941d9efbd404e4d88758ea67670"));
  CHECK (digest_is (1, "7025e075d5e2f6cde3cc051a31f07660"));
  CHECK (digest_is (128, "a74787004ef589e31149183900d0294a"));
  CHECK (digest_is (129, "aaf1b0371f6d4ee49ee4fb5ddd9c49ef"));
  CHECK (digest_is (256, "c2472c0ac37a8dbdb25f05ada0d82643"));
  CHECK (digest_is (1000, "978a3f8b45508a42fe7f0f99caf2c423"));
  uint8_t wire[200 * ACL_RULE] = { 0 };
  acl_fingerprint (wire, 200, out);
  acl_fingerprint (wire, 199, other);
  CHECK (memcmp (out, other, 16) != 0);
  wire[199 * ACL_RULE + 47] = 1;
  acl_fingerprint (wire, 200, other);
  CHECK (memcmp (out, other, 16) != 0);
}

/* More pairs than a table of slots holds at first, each with its own number. */
static void
test_pairs (void)
{
  acl_pairs pairs = { 0 };
  for (uint32_t a = 0; a < 100; a++)
    for (uint32_t b = 1; b < 100; b++)
      CHECK (acl_pair (&pairs, a, b) == a * 99 + b);
  CHECK (acl_pair (&pairs, 3, 7) == 3 * 99 + 7 && pairs.n == 9900);
  acl_pairs_free (&pairs);
}

int
main (void)
{
  test_algebra ();
  test_prefixes ();
  test_ports_seen ();
  test_rules ();
  test_matching ();
  test_names ();
  test_pairs ();
  printf ("acl: %d checks, %d failed\n", checks, failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}
