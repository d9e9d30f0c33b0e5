/* What every file of the plugin shares: the codes of CNI specification 1.1, a failure, a slice of text.
 *
 * A function that can fail returns 0, or -1 with the failure filled in; nothing prints before main decides to. */
#ifndef CONTIV_CNI_H
#define CONTIV_CNI_H

#include <stdbool.h>
#include <stddef.h>

enum cni_code {
    CNI_INCOMPATIBLE_VERSION = 1,
    CNI_UNSUPPORTED_FIELD = 2,
    CNI_INVALID_ENVIRONMENT = 4, /* the message must name the variable */
    CNI_IO_FAILURE = 5,
    CNI_DECODING_FAILURE = 6,
    CNI_INVALID_CONFIG = 7,
    CNI_TRY_AGAIN_LATER = 11,
    CNI_NOT_AVAILABLE = 50, /* STATUS only */
    CNI_AGENT_PROTOCOL = 100, /* ours: what answered on the agent's socket is no agent of this release */
    CNI_INTERNAL = 999,
};

enum cni_command {
    COMMAND_ADD,
    COMMAND_DEL,
    COMMAND_CHECK,
    COMMAND_STATUS,
    COMMAND_GC,
    COMMAND_VERSION,
};

/* In ascending order: a later one can do all that an earlier one can. */
enum cni_version {
    VERSION_0_3_1,
    VERSION_0_4_0,
    VERSION_1_0_0,
    VERSION_1_1_0,
    VERSION_COUNT,
};

#define VERSION_CURRENT VERSION_1_1_0

extern const char *const cni_version_names[VERSION_COUNT];

struct failure {
    int code;
    char msg[512];
    char details[1024];
};

/* A part of someone else's text; not terminated. */
struct span {
    const char *at;
    size_t length;
};

/* Fill in a failure. Both texts are cut where they do not fit, at a character's border. */
void set_failure(struct failure *failure, int code, const char *details, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same as an expression of value -1, for `return fail(...)`; a macro so that analyzers see the value. */
#define fail(...) (set_failure(__VA_ARGS__), -1)

/* Length of the well-formed UTF-8 sequence at `at` (RFC 3629), or 0. */
size_t utf8_sequence(const unsigned char *at, const unsigned char *end);

/* The specification's rule for container IDs and network names: [a-zA-Z0-9][a-zA-Z0-9_.-]* */
bool is_identifier(const char *text);

#endif
