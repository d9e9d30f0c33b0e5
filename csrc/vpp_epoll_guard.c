/* Loaded into VPP by LD_PRELOAD: keeps its main loop from never coming back out of epoll.
 *
 * VPP 26.06 asks epoll for 16 events and, when it gets 16, asks again before it does anything else, since there may
 * be more (src/vlib/file.c, vlib_file_poll). af_packet sockets stay readable until an input node has emptied their
 * rings, and those nodes run only after that loop. So once 16 interfaces have frames at the same time the loop never
 * ends: no packet, no API, no CLI, for good. Here one event fewer than asked for is the most that is given; that is
 * always allowed, the loop ends, and epoll gives the others their turn at the next call, for it goes round robin.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/epoll.h>

typedef int (*epoll_wait_fn) (int, struct epoll_event *, int, int);

int
epoll_wait (int epfd, struct epoll_event *events, int maxevents, int timeout)
{
  static epoll_wait_fn next;

  /* two threads may both look it up: they store the same pointer */
  epoll_wait_fn function = __atomic_load_n (&next, __ATOMIC_RELAXED);
  if (!function)
    {
      *(void **) &function = dlsym (RTLD_NEXT, "epoll_wait");
      if (!function)
	abort ();
      __atomic_store_n (&next, function, __ATOMIC_RELAXED);
    }
  return function (epfd, events, maxevents > 1 ? maxevents - 1 : maxevents, timeout);
}
