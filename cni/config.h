/* The network configuration on standard input: the keys that the plugin reads itself. The agent reads the rest. */
#ifndef CONTIV_CONFIG_H
#define CONTIV_CONFIG_H

#include "cni.h"

#define CONFIG_SIZE_MAX (1UL << 20)
#define TIMEOUT_DEFAULT_S 60 /* below kubelet's two minutes for a runtime request */
#define TIMEOUT_MAX_S 600
#define DEFAULT_SOCKET "/run/contiv/cni.sock"

enum log_level {
    LOG_ERROR, /* failed calls */
    LOG_INFO,  /* every call */
    LOG_DEBUG, /* every call, with netns and CNI_PATH */
};

struct config {
    char name[256];
    char socket[108]; /* sun_path */
    char log_file[4096];
    enum log_level log_level;
    long timeout_s;
};

/* Is the text one JSON object? Code 6 else. */
int check_document(struct span document, struct failure *failure);

/* The version to answer in: `cniVersion`, or without it the highest of `cniVersions` that is ours. Code 1 when there
 * is none, with the supported ones in the details. `version` is set in any case: errors are printed in it. */
int negotiate_version(struct span document, enum cni_version *version, struct failure *failure);

/* What VERSION echoes: the configuration's cniVersion, or the current one where there is none. */
int echoed_version(struct span document, char *out, size_t room, struct failure *failure);

/* Where to log, if anywhere: never fails, so that a call refused for another key is logged all the same. */
void read_log_keys(struct span document, struct config *config);

/* All keys, and what `command` demands of them. */
int read_config(struct span document, enum cni_command command, enum cni_version version, struct config *config,
                struct failure *failure);

/* "1.1.0": the array of supported versions as JSON, into `out`. */
void supported_versions(char *out, size_t room);

#endif
