/* The C loop through shared memory that bench/fastpath.py compares with: VPP's client library and nothing else.
 *
 * usage: shm LIBRARY PREFIX MESSAGE_CRC COUNT. Sends COUNT 10-byte requests with WINDOW in flight and prints seconds. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WINDOW = 512, QUEUE = 1024, REQUEST = 10 };

static void *library;

static void *
find (const char *name)
{
  void *function = dlsym (library, name);
  if (!function)
    {
      fprintf (stderr, "no %s\n", name);
      exit (1);
    }
  return function;
}

static double
now (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

int
main (int argc, char **argv)
{
  if (argc != 5 || !(library = dlopen (argv[1], RTLD_NOW)))
    return 2;
  void (*mem_init) (size_t) = (void (*) (size_t)) find ("vac_mem_init");
  int (*start) (const char *, const char *, void *, int) = (int (*) (const char *, const char *, void *, int)) find ("vac_connect");
  int (*put) (const char *, int) = (int (*) (const char *, int)) find ("vac_write");
  int (*get) (char **, int *, unsigned short) = (int (*) (char **, int *, unsigned short)) find ("vac_read");
  void (*give_back) (void *) = (void (*) (void *)) find ("vac_free");
  int (*number) (const char *) = (int (*) (const char *)) find ("vac_get_msg_index");
  int (*end) (void) = (int (*) (void)) find ("vac_disconnect");
  long n = atol (argv[4]), sent = 0, got = 0;
  mem_init (0);
  if (start ("bench", argv[2], NULL, QUEUE) != 0)
    return 1;
  int id = number (argv[3]);
  char request[REQUEST] = { (char) (id >> 8), (char) id };
  double started = now ();
  while (got < n)
    {
      for (; sent < n && sent - got < WINDOW; sent++)
	put (request, REQUEST);
      char *message = NULL;
      int len = 0;
      if (get (&message, &len, 0) == 0 && message)
	{
	  got++;
	  give_back (message);
	}
    }
  printf ("%.6f\n", now () - started);
  fflush (stdout);
  end ();
  return 0;
}
