/* Runs a fuzz target without libFuzzer: files given are replayed, then mutated for SECONDS (environment, default 0).
 *
 * A plain mutator: flips, overwrites, cuts and joins bytes of the corpus. Good enough to find over-reads under the
 * sanitizers where clang's libFuzzer is absent; with clang the same targets link with -fsanitize=fuzzer instead. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

enum { MAX_INPUT = 4096, MAX_SEEDS = 256 };

static struct
{
  uint8_t data[MAX_INPUT];
  size_t size;
} seeds[MAX_SEEDS];
static size_t n_seeds;
static uint64_t state = 88172645463325252ull;

static uint32_t
rnd (uint32_t below)
{
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t) (state >> 20) % below;
}

static void
run (const uint8_t *data, size_t size)
{
  /* exactly as large as the input, so that the sanitizer sees one byte too far */
  uint8_t *copy = malloc (size ? size : 1);
  if (!copy)
    abort ();
  memcpy (copy, data, size);
  LLVMFuzzerTestOneInput (copy, size);
  free (copy);
}

static void
read_seed (const char *path)
{
  FILE *file = fopen (path, "rb");
  if (!file)
    {
      perror (path);
      exit (1);
    }
  if (n_seeds < MAX_SEEDS)
    {
      seeds[n_seeds].size = fread (seeds[n_seeds].data, 1, MAX_INPUT, file);
      run (seeds[n_seeds].data, seeds[n_seeds].size);
      n_seeds++;
    }
  fclose (file);
}

static size_t
mutate (uint8_t *out)
{
  size_t size = 0;
  if (n_seeds)
    {
      size_t seed = rnd ((uint32_t) n_seeds);
      size = seeds[seed].size;
      memcpy (out, seeds[seed].data, size);
    }
  for (uint32_t i = 0, n = 1 + rnd (8); i < n; i++)
    switch (rnd (5))
      {
      case 0:
	if (size)
	  out[rnd ((uint32_t) size)] ^= (uint8_t) (1u << rnd (8));
	break;
      case 1:
	if (size)
	  out[rnd ((uint32_t) size)] = (uint8_t) rnd (256);
	break;
      case 2:
	size = size ? rnd ((uint32_t) size) : 0;
	break;
      case 3:
	while (size < MAX_INPUT && rnd (16))
	  out[size++] = (uint8_t) (rnd (3) ? rnd (256) : 0xff * rnd (2));
	break;
      default:
	if (size >= 4)
	  memset (out + rnd ((uint32_t) size - 3), rnd (2) ? 0xff : 0, 4);
      }
  return size;
}

int
main (int argc, char **argv)
{
  const char *seconds = getenv ("SECONDS_TO_FUZZ");
  time_t end = time (NULL) + (seconds ? atoi (seconds) : 0);
  unsigned long runs = 0;
  static uint8_t input[MAX_INPUT];
  for (int i = 1; i < argc; i++)
    read_seed (argv[i]);
  while (time (NULL) < end)
    for (int i = 0; i < 1000; i++, runs++)
      run (input, mutate (input));
  printf ("%s: %zu seeds, %lu mutated inputs\n", argv[0], n_seeds, runs);
  return 0;
}
