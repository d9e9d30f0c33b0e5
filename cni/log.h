/* One line a call in the file that the configuration names. Whatever goes wrong here stays here: the call goes on. */
#ifndef CONTIV_LOG_H
#define CONTIV_LOG_H

#include "args.h"
#include "config.h"

struct log_entry {
    const char *command;
    const struct environment *environment;
    const struct failure *failure; /* NULL when the call succeeded */
    double duration_ms;
};

void write_log(const struct config *config, const struct log_entry *entry);

#endif
