/* The plain C client that bench/fastpath.py compares with: pre-encoded requests out, replies counted.
 *
 * usage: client SOCKET FILE REPLIES. FILE holds framed requests; the client index of each is set to the one that VPP
 * gives at the handshake. Prints seconds from the first byte sent to the last reply. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 16, NAME = 64, CREATE = 15, ROOM = 1 << 20 };

static uint32_t
be32 (const uint8_t *p)
{
  return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3];
}

static void
die (const char *what)
{
  perror (what);
  exit (1);
}

static void
read_all (int fd, uint8_t *data, size_t n)
{
  while (n)
    {
      ssize_t got = read (fd, data, n);
      if (got <= 0)
	die ("read");
      data += got;
      n -= (size_t) got;
    }
}

static double
now (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static void
handshake (int fd, uint8_t index[4])
{
  uint8_t create[HEADER + 6 + NAME] = { 0 }, header[HEADER];
  create[11] = 6 + NAME;
  create[HEADER + 1] = CREATE;
  strcpy ((char *) create + HEADER + 6, "bench");
  if (write (fd, create, sizeof create) != sizeof create)
    die ("write");
  read_all (fd, header, HEADER);
  uint32_t n = be32 (header + 8);
  uint8_t *reply = malloc (n);
  if (!reply)
    die ("malloc");
  read_all (fd, reply, n);
  memcpy (index, reply + 14, 4);
  free (reply);
}

int
main (int argc, char **argv)
{
  struct sockaddr_un to = { .sun_family = AF_UNIX };
  if (argc != 4)
    return 2;
  long left = atol (argv[3]);
  snprintf (to.sun_path, sizeof to.sun_path, "%s", argv[1]);
  int fd = socket (AF_UNIX, SOCK_STREAM, 0);
  if (connect (fd, (struct sockaddr *) &to, sizeof to) < 0)
    die ("connect");
  uint8_t index[4];
  handshake (fd, index);
  FILE *file = fopen (argv[2], "rb");
  if (!file)
    die (argv[2]);
  fseek (file, 0, SEEK_END);
  size_t size = (size_t) ftell (file), sent = 0, have = 0;
  rewind (file);
  uint8_t *data = malloc (size), *in = malloc (ROOM);
  if (!data || !in || fread (data, 1, size, file) != size)
    die ("fread");
  for (size_t at = 0; at < size; at += HEADER + be32 (data + at + 8))
    memcpy (data + at + HEADER + 2, index, 4);
  fcntl (fd, F_SETFL, O_NONBLOCK);
  double start = now ();
  while (left > 0)
    {
      struct pollfd p = { .fd = fd, .events = (short) (POLLIN | (sent < size ? POLLOUT : 0)) };
      poll (&p, 1, -1);
      if (p.revents & POLLOUT)
	{
	  ssize_t n = write (fd, data + sent, size - sent);
	  if (n < 0 && errno != EAGAIN)
	    die ("write");
	  sent += n > 0 ? (size_t) n : 0;
	}
      if (p.revents & (POLLIN | POLLHUP))
	{
	  ssize_t n = read (fd, in + have, ROOM - have);
	  if (n == 0 || (n < 0 && errno != EAGAIN))
	    die ("read");
	  have += n > 0 ? (size_t) n : 0;
	  size_t at = 0;
	  while (have - at >= HEADER && have - at >= HEADER + be32 (in + at + 8))
	    {
	      at += HEADER + be32 (in + at + 8);
	      left--;
	    }
	  memmove (in, in + at, have - at);
	  have -= at;
	}
    }
  printf ("%.6f\n", now () - start);
  return 0;
}
