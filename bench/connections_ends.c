/* Both ends of bench/connections.py: a server that answers each connection with one byte, and a client that opens many.
 *
 * usage: ends serve PORT LETTER: prints "ready", then accepts, sends LETTER and hangs up, until killed.
 *        ends open SOURCE ADDRESS PORT FIRST COUNT AT_ONCE: COUNT connections from the ports FIRST, FIRST + 1, ..., of
 *        which AT_ONCE are under way at a time. One counts when its byte has come; it ends with a reset, so that
 *        neither side keeps its ports. Prints the seconds that all took, how many failed, how many of the others were
 *        late, and how often each letter came.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 4096, EVENTS = 256, LETTERS = 26, AT_ONCE_MAX = 4096 };

/* A SYN that is lost comes again after a second, and after two and four more (RFC 6298). */
static const double LATE_S = 0.9, PATIENCE_S = 7.5;

typedef struct
{
  int fd; /* -1: free */
  double since;
} attempt;

static attempt attempts[AT_ONCE_MAX];
static long letters[LETTERS], failed, late;

static void
die (const char *what)
{
  perror (what);
  exit (1);
}

static double
now (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static struct sockaddr_in
address_of (const char *text, long port)
{
  struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons ((uint16_t) port) };
  if (inet_pton (AF_INET, text, &address.sin_addr) != 1)
    die (text);
  return address;
}

static void
serve (long port, char letter)
{
  struct sockaddr_in here = address_of ("0.0.0.0", port);
  int on = 1, listener = socket (AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt (listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind (listener, (struct sockaddr *) &here, sizeof here) < 0 || listen (listener, BACKLOG) < 0)
    die ("listen");
  puts ("ready");
  fflush (stdout);
  for (;;)
    {
      int fd = accept4 (listener, NULL, NULL, SOCK_CLOEXEC);
      if (fd < 0)
	continue;
      send (fd, &letter, 1, MSG_NOSIGNAL);
      close (fd);
    }
}

static void
start (attempt *a, int epoll, const struct sockaddr_in *from, const struct sockaddr_in *to)
{
  struct linger reset = { .l_onoff = 1, .l_linger = 0 };
  struct epoll_event event = { .events = EPOLLIN, .data.ptr = a };
  int on = 1;
  a->fd = socket (AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  a->since = now ();
  setsockopt (a->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt (a->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  if (a->fd < 0 || bind (a->fd, (const struct sockaddr *) from, sizeof *from) < 0)
    die ("bind");
  if (connect (a->fd, (const struct sockaddr *) to, sizeof *to) < 0 && errno != EINPROGRESS)
    die ("connect");
  epoll_ctl (epoll, EPOLL_CTL_ADD, a->fd, &event);
}

static void
end (attempt *a, int answered)
{
  char letter = 0;
  if (answered && read (a->fd, &letter, 1) == 1 && letter >= 'a' && letter < 'a' + LETTERS)
    {
      letters[letter - 'a']++;
      late += now () - a->since > LATE_S;
    }
  else
    failed++;
  close (a->fd);
  a->fd = -1;
}

static void
open_all (const char *source, const struct sockaddr_in *to, long first, long count, long at_once)
{
  struct epoll_event events[EVENTS];
  int epoll = epoll_create1 (EPOLL_CLOEXEC);
  long opened = 0, under_way = 0;
  for (long i = 0; i < at_once; i++)
    attempts[i].fd = -1;
  double started = now (), looked = started;
  while (opened < count || under_way)
    {
      for (long i = 0; i < at_once && opened < count && under_way < at_once; i++)
	if (attempts[i].fd < 0)
	  {
	    struct sockaddr_in from = address_of (source, first + opened++);
	    start (&attempts[i], epoll, &from, to);
	    under_way++;
	  }
      int n = epoll_wait (epoll, events, EVENTS, 100);
      for (int i = 0; i < n; i++, under_way--)
	end (events[i].data.ptr, 1);
      double at = now ();
      for (long i = 0; at - looked > 0.1 && i < at_once; i++)
	if (attempts[i].fd >= 0 && at - attempts[i].since > PATIENCE_S)
	  {
	    end (&attempts[i], 0);
	    under_way--;
	  }
      looked = at - looked > 0.1 ? at : looked;
    }
  printf ("%.6f %ld %ld", now () - started, failed, late);
  for (int i = 0; i < LETTERS; i++)
    printf (" %ld", letters[i]);
  putchar ('\n');
}

int
main (int argc, char **argv)
{
  if (argc == 4 && strcmp (argv[1], "serve") == 0)
    serve (atol (argv[2]), argv[3][0]);
  if (argc == 8 && strcmp (argv[1], "open") == 0 && atol (argv[7]) <= AT_ONCE_MAX)
    {
      struct sockaddr_in to = address_of (argv[3], atol (argv[4]));
      open_all (argv[2], &to, atol (argv[5]), atol (argv[6]), atol (argv[7]));
      return 0;
    }
  return 2;
}
