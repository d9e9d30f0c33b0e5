/* VPP's client library at arm's length; see shm.h. */
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#include "shm.h"

#include "codec.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STEP_NS = 20 * 1000 * 1000 }; /* how often a waiting caller looks at its stop flag */

static struct
{
  void *library;
  int connected, broken;
  char error[256];
  void (*mem_init) (size_t);
  int (*connect) (const char *, const char *, void (*) (unsigned char *, int), int);
  int (*disconnect) (void);
  int (*write) (const char *, int);
  int (*read) (char **, int *, unsigned short);
  void (*free) (void *);
  int (*message_index) (const char *);
  void (*suspend) (void);
  void (*resume) (void);
} vac;

const char *
csm_error (void)
{
  return vac.error;
}

/* Work that may never return: the thread that does it outlives the call when it is given up. */
typedef struct
{
  void (*work) (void *);
  void *argument;
  pthread_mutex_t lock;
  pthread_cond_t finished;
  int done, abandoned;
} task;

static void *
task_main (void *argument)
{
  task *t = argument;
  t->work (t->argument);
  pthread_mutex_lock (&t->lock);
  t->done = 1;
  pthread_cond_signal (&t->finished);
  int abandoned = t->abandoned;
  pthread_mutex_unlock (&t->lock);
  if (abandoned)
    free (t);
  return NULL;
}

static void
step_from_now (struct timespec *at)
{
  clock_gettime (CLOCK_REALTIME, at);
  at->tv_nsec += STEP_NS;
  if (at->tv_nsec >= 1000000000)
    {
      at->tv_sec++;
      at->tv_nsec -= 1000000000;
    }
}

static double
now (void)
{
  struct timespec t;
  clock_gettime (CLOCK_MONOTONIC, &t);
  return (double) t.tv_sec + (double) t.tv_nsec / 1e9;
}

static int
run (void (*work) (void *), void *argument, double timeout_s, atomic_int *stop)
{
  task *t = calloc (1, sizeof *t);
  pthread_t thread;
  pthread_attr_t attributes;
  double deadline = now () + timeout_s;
  int status = CSM_OK;
  if (!t)
    return CSM_REFUSED;
  t->work = work;
  t->argument = argument;
  pthread_mutex_init (&t->lock, NULL);
  pthread_cond_init (&t->finished, NULL);
  pthread_attr_init (&attributes);
  pthread_attr_setdetachstate (&attributes, PTHREAD_CREATE_DETACHED);
  int failed = pthread_create (&thread, &attributes, task_main, t);
  pthread_attr_destroy (&attributes);
  if (failed)
    {
      free (t);
      return CSM_REFUSED;
    }
  pthread_mutex_lock (&t->lock);
  while (!t->done && status == CSM_OK)
    {
      struct timespec at;
      step_from_now (&at);
      pthread_cond_timedwait (&t->finished, &t->lock, &at);
      if (!t->done && stop && atomic_load (stop))
	status = CSM_STOPPED;
      else if (!t->done && now () > deadline)
	status = CSM_TIMEOUT;
    }
  if (status != CSM_OK)
    {
      t->abandoned = 1;
      vac.broken = 1;
    }
  pthread_mutex_unlock (&t->lock);
  if (status == CSM_OK)
    free (t);
  return status;
}

static int
open_library (const char *path)
{
  static const struct
  {
    const char *name;
    size_t offset;
  } WANTED[] = {
    { "vac_mem_init", offsetof (__typeof__ (vac), mem_init) },
    { "vac_connect", offsetof (__typeof__ (vac), connect) },
    { "vac_disconnect", offsetof (__typeof__ (vac), disconnect) },
    { "vac_write", offsetof (__typeof__ (vac), write) },
    { "vac_read", offsetof (__typeof__ (vac), read) },
    { "vac_free", offsetof (__typeof__ (vac), free) },
    { "vac_get_msg_index", offsetof (__typeof__ (vac), message_index) },
    { "vac_rx_suspend", offsetof (__typeof__ (vac), suspend) },
    { "vac_rx_resume", offsetof (__typeof__ (vac), resume) },
  };
  if (vac.library)
    return CSM_OK;
  vac.library = dlopen (path, RTLD_NOW | RTLD_LOCAL);
  if (!vac.library)
    {
      snprintf (vac.error, sizeof vac.error, "%s", dlerror ());
      return CSM_NO_LIBRARY;
    }
  for (size_t i = 0; i < sizeof WANTED / sizeof *WANTED; i++)
    {
      void *function = dlsym (vac.library, WANTED[i].name);
      if (!function)
	{
	  snprintf (vac.error, sizeof vac.error, "%s: no %s", path, WANTED[i].name);
	  dlclose (vac.library);
	  vac.library = NULL;
	  return CSM_NO_LIBRARY;
	}
      memcpy ((char *) &vac + WANTED[i].offset, &function, sizeof function);
    }
  vac.mem_init (0);
  return CSM_OK;
}

/* Arguments of a connection: on the heap and never freed when the library does not return. */
typedef struct
{
  char name[64], prefix[128];
  int queue_length, result;
} connection;

/* Messages while nothing is exchanged: events and keep-alives, which the library answers itself. */
static void
ignore (unsigned char *message, int len)
{
  (void) message;
  (void) len;
}

static void
connect_work (void *argument)
{
  connection *c = argument;
  c->result = vac.connect (c->name, c->prefix[0] ? c->prefix : NULL, ignore, c->queue_length);
}

int
csm_connect (const char *library, const char *name, const char *prefix, int queue_length, double timeout_s)
{
  if (vac.broken || vac.connected)
    return CSM_BROKEN;
  int status = open_library (library);
  if (status != CSM_OK)
    return status;
  connection *c = calloc (1, sizeof *c);
  if (!c)
    return CSM_REFUSED;
  snprintf (c->name, sizeof c->name, "%s", name);
  snprintf (c->prefix, sizeof c->prefix, "%s", prefix);
  c->queue_length = queue_length;
  status = run (connect_work, c, timeout_s, NULL);
  if (status != CSM_OK)
    return status;
  int result = c->result;
  free (c);
  if (result != 0)
    {
      snprintf (vac.error, sizeof vac.error, "vac_connect returned %d", result);
      return CSM_REFUSED;
    }
  vac.connected = 1;
  return CSM_OK;
}

int
csm_message_index (const char *name_and_crc)
{
  int index = vac.connected && !vac.broken ? vac.message_index (name_and_crc) : 0;
  return index > 0 && index < 0xffff ? index : 0;
}

static void
take (csm_job *job, const uint8_t *message, uint32_t len)
{
  uint32_t place = UINT32_MAX;
  if (len >= job->row_size && len >= job->context_offset + 4 && cv_load16 (message) == job->reply_id)
    place = cv_load32 (message + job->context_offset) - job->base;
  if (place >= job->n || job->seen[place])
    {
      job->strays++;
      return;
    }
  memcpy (job->rows + (size_t) place * job->row_size, message, job->row_size);
  job->seen[place] = 1;
  atomic_fetch_add_explicit (&job->answered, 1, memory_order_relaxed);
}

static void
exchange_work (void *argument)
{
  csm_job *job = argument;
  uint32_t sent = 0, read = 0;
  vac.suspend ();
  while (job->answered + job->refused < job->n && !atomic_load_explicit (&job->stop, memory_order_relaxed))
    {
      for (; sent < job->n && sent - read - job->refused < job->window; sent++)
	{
	  const uint8_t *request = job->requests + (size_t) sent * job->stride + job->skip;
	  if (vac.write ((const char *) request, (int) job->size) != 0)
	    job->refused++;
	}
      if (job->answered + job->refused >= job->n)
	break;
      char *message = NULL;
      int len = 0;
      if (vac.read (&message, &len, 0) == 0 && message)
	{
	  uint32_t before = job->answered;
	  take (job, (const uint8_t *) message, len > 0 ? (uint32_t) len : 0);
	  read += job->answered - before;
	  vac.free (message);
	}
    }
  vac.resume ();
}

int
csm_exchange (csm_job *job)
{
  if (vac.broken || !vac.connected)
    return CSM_BROKEN;
  return run (exchange_work, job, job->timeout_s, &job->stop);
}

static void
disconnect_work (void *argument)
{
  (void) argument;
  vac.disconnect ();
}

int
csm_disconnect (double timeout_s)
{
  if (vac.broken || !vac.connected)
    return CSM_BROKEN;
  int status = run (disconnect_work, NULL, timeout_s, NULL);
  vac.connected = 0;
  return status;
}
