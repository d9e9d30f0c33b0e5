/* Counts what was checked and says what failed. */
#ifndef CONTIV_CHECK_H
#define CONTIV_CHECK_H

#include <stdio.h>
#include <stdlib.h>

static int checks, failures;

#define CHECK(condition)                                                                                               \
  do                                                                                                                   \
    {                                                                                                                  \
      checks++;                                                                                                        \
      if (!(condition))                                                                                                \
	{                                                                                                              \
	  failures++;                                                                                                  \
	  fprintf (stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                             \
	}                                                                                                              \
    }                                                                                                                  \
  while (0)

#endif
