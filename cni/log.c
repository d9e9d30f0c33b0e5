/* The log file: key=value, values as JSON strings so that no value can forge a line. */
#include "log.h"

#include "json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void field(struct text *line, const char *name, const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    text_raw(line, " ");
    text_raw(line, name);
    text_raw(line, "=");
    text_string(line, value);
}

static void compose(struct text *line, const struct config *config, const struct log_entry *entry)
{
    struct timespec now;
    struct tm utc;
    char stamp[32];
    char measured[64];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    (void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
    (void)snprintf(measured, sizeof measured, ".%03ldZ %s pid=%ld ms=%.2f", now.tv_nsec / 1000000,
                   entry->failure == NULL ? "info" : "error", (long)getpid(), entry->duration_ms);
    text_raw(line, stamp);
    text_raw(line, measured);
    field(line, "command", entry->command);
    field(line, "network", config->name);
    field(line, "container", entry->environment->container_id);
    field(line, "ifname", entry->environment->ifname);
    field(line, "namespace", entry->environment->pod.namespace);
    field(line, "pod", entry->environment->pod.name);
    if (config->log_level == LOG_DEBUG) {
        field(line, "netns", entry->environment->netns);
        field(line, "path", entry->environment->path);
    }
    if (entry->failure != NULL) {
        text_raw(line, " code=");
        text_number(line, (unsigned long)entry->failure->code);
        field(line, "error", entry->failure->msg);
        field(line, "details", entry->failure->details);
    }
    text_raw(line, "\n");
}

/* A regular file only: a fifo or device could hold the call up. */
static int open_log(const char *path)
{
    struct stat status;
    int descriptor = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW, 0640);
    if (descriptor < 0)
        return -1;
    if (fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode))
        return descriptor;
    (void)close(descriptor);
    errno = EINVAL;
    return -1;
}

void write_log(const struct config *config, const struct log_entry *entry)
{
    struct text line = {0};
    if (config->log_file[0] == '\0' || (config->log_level == LOG_ERROR && entry->failure == NULL))
        return;
    int descriptor = open_log(config->log_file);
    if (descriptor < 0) {
        /* runtimes keep a plugin's standard error; the call itself does not suffer */
        (void)fprintf(stderr, "contiv-cni: cannot log to %s: %s\n", config->log_file, strerror(errno));
        return;
    }
    compose(&line, config, entry);
    if (!line.failed && write(descriptor, line.at, line.length) < 0) /* one write: lines of concurrent calls stay whole */
        (void)fprintf(stderr, "contiv-cni: cannot log to %s: %s\n", config->log_file, strerror(errno));
    (void)close(descriptor);
    free(line.at);
}
