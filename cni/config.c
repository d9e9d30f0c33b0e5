/* The configuration's keys (CNI specification 1.1, section 1), checked before anybody is asked anything. */
#include "config.h"

#include "json.h"

#include <stdio.h>
#include <string.h>

#define ATTACHMENTS "cni.dev/valid-attachments"
/* what the specification called it before 1.1.0 was corrected; runtimes send both */
#define ATTACHMENTS_OLD "cni.dev/attachments"

int check_document(struct span document, struct failure *failure)
{
    char where[64];
    size_t offset = 0;
    const char *problem = json_check(document, &offset);
    (void)snprintf(where, sizeof where, "byte %zu of %zu", offset, document.length);
    if (problem != NULL)
        return fail(failure, CNI_DECODING_FAILURE, where, "network configuration is no JSON: %s", problem);
    if (json_kind(document) != JSON_OBJECT)
        return fail(failure, CNI_DECODING_FAILURE, where, "network configuration is no JSON object");
    return 0;
}

void supported_versions(char *out, size_t room)
{
    size_t length = 0;
    for (int index = 0; index < VERSION_COUNT && length < room; index++)
        length += (size_t)snprintf(out + length, room - length, "%s\"%s\"", index == 0 ? "[" : ",",
                                   cni_version_names[index]);
    if (length < room)
        (void)snprintf(out + length, room - length, "]");
}

static bool find_version(struct span value, enum cni_version *version)
{
    char name[16];
    if (!json_string(value, name, sizeof name))
        return false;
    for (int index = 0; index < VERSION_COUNT; index++)
        if (strcmp(name, cni_version_names[index]) == 0) {
            *version = (enum cni_version)index;
            return true;
        }
    return false;
}

static bool find_best_version(struct span list, enum cni_version *version)
{
    struct span element;
    bool found = false;
    while (json_next(&list, &element)) {
        enum cni_version one = VERSION_CURRENT;
        if (find_version(element, &one) && (!found || one > *version)) {
            *version = one;
            found = true;
        }
    }
    return found;
}

/* A key that must not stand twice: two readers would take different ones. */
static int find_once(struct span document, const char *key, struct span *value, bool *found, struct failure *failure)
{
    size_t count = json_member(document, key, value);
    *found = count > 0;
    if (count > 1)
        return fail(failure, CNI_DECODING_FAILURE, key, "network configuration has the key %s twice", key);
    return 0;
}

int negotiate_version(struct span document, enum cni_version *version, struct failure *failure)
{
    struct span value = {"\"0.1.0\"", 7}; /* what a configuration without a version means */
    char supported[64];
    bool found = false;
    *version = VERSION_CURRENT;
    if (find_once(document, "cniVersion", &value, &found, failure) < 0)
        return -1;
    if (find_version(value, version))
        return 0;
    struct span list;
    if (!found && json_member(document, "cniVersions", &list) > 0 && find_best_version(list, version))
        return 0;
    *version = VERSION_CURRENT;
    supported_versions(supported, sizeof supported);
    char details[128];
    (void)snprintf(details, sizeof details, "supported versions: %s", supported);
    int shown = value.length > 64 ? 64 : (int)value.length;
    return fail(failure, CNI_INCOMPATIBLE_VERSION, details, "cniVersion %.*s is not supported", shown, value.at);
}

int echoed_version(struct span document, char *out, size_t room, struct failure *failure)
{
    struct span value;
    bool found = false;
    (void)snprintf(out, room, "%s", cni_version_names[VERSION_CURRENT]);
    if (find_once(document, "cniVersion", &value, &found, failure) < 0)
        return -1;
    if (found && !json_string(value, out, room))
        return fail(failure, CNI_DECODING_FAILURE, "cniVersion", "cniVersion is no version");
    return 0;
}

static int wrong(struct failure *failure, const char *key, struct span value, const char *remedy)
{
    int shown = value.length > 128 ? 128 : (int)value.length;
    return fail(failure, CNI_INVALID_CONFIG, remedy, "configuration key %s has the wrong value %.*s", key, shown,
                value.at);
}

/* An optional path; `out` keeps its default where the key is absent, and is empty where the value is refused: nobody
 * may write to a path that was. */
static int read_path(struct span document, const char *key, char *out, size_t room, struct failure *failure)
{
    struct span value;
    bool found = false;
    if (find_once(document, key, &value, &found, failure) < 0)
        return -1;
    if (found && (!json_string(value, out, room) || out[0] != '/')) {
        char remedy[96];
        out[0] = '\0';
        (void)snprintf(remedy, sizeof remedy, "an absolute path of at most %zu bytes is expected", room - 1);
        return wrong(failure, key, value, remedy);
    }
    return 0;
}

static int read_log_level(struct span document, enum log_level *level, struct failure *failure)
{
    static const char *const names[] = {"error", "info", "debug"};
    struct span value;
    bool found = false;
    char name[16];
    if (find_once(document, "logLevel", &value, &found, failure) < 0)
        return -1;
    if (!found)
        return 0;
    if (json_string(value, name, sizeof name))
        for (int index = LOG_ERROR; index <= LOG_DEBUG; index++)
            if (strcmp(name, names[index]) == 0) {
                *level = (enum log_level)index;
                return 0;
            }
    return wrong(failure, "logLevel", value, "error, info or debug is expected");
}

void read_log_keys(struct span document, struct config *config)
{
    struct failure ignored;
    config->log_level = LOG_INFO;
    (void)read_path(document, "logFile", config->log_file, sizeof config->log_file, &ignored);
    (void)read_log_level(document, &config->log_level, &ignored);
}

static int read_name(struct span document, struct config *config, struct failure *failure)
{
    struct span value = {"", 0};
    bool found = false;
    if (find_once(document, "name", &value, &found, failure) < 0)
        return -1;
    if (!found)
        return fail(failure, CNI_INVALID_CONFIG, "name", "network configuration has no name");
    if (!json_string(value, config->name, sizeof config->name) || !is_identifier(config->name))
        return wrong(failure, "name", value, "it must match [a-zA-Z0-9][a-zA-Z0-9_.-]* with at most 255 characters");
    if (find_once(document, "type", &value, &found, failure) < 0)
        return -1;
    return found && json_kind(value) != JSON_STRING ? wrong(failure, "type", value, "a string is expected") : 0;
}

static int read_timeout(struct span document, long *timeout_s, struct failure *failure)
{
    struct span value;
    bool found = false;
    *timeout_s = TIMEOUT_DEFAULT_S;
    if (find_once(document, "timeoutSeconds", &value, &found, failure) < 0)
        return -1;
    if (found && (!json_integer(value, TIMEOUT_MAX_S, timeout_s) || *timeout_s == 0))
        return wrong(failure, "timeoutSeconds", value, "a whole number from 1 to 600 is expected");
    return 0;
}

/* ADD is no link of a chain: an interface is attached to VPP here, not refined. CHECK compares with what ADD said. */
static int check_previous_result(struct span document, enum cni_command command, struct failure *failure)
{
    struct span value = {"", 0};
    bool found = false;
    if (find_once(document, "prevResult", &value, &found, failure) < 0)
        return -1;
    found = found && json_kind(value) != JSON_NULL;
    int shown = value.length > 128 ? 128 : (int)value.length;
    if (command == COMMAND_ADD && found)
        return fail(failure, CNI_UNSUPPORTED_FIELD, "contiv-cni must be the first plugin of the list",
                    "prevResult is not supported on ADD: %.*s", shown, value.at);
    if (command == COMMAND_CHECK && !found)
        return fail(failure, CNI_INVALID_CONFIG, "prevResult", "CHECK needs the key prevResult: the result of ADD");
    if (command == COMMAND_CHECK && json_kind(value) != JSON_OBJECT)
        return wrong(failure, "prevResult", value, "an object is expected");
    return 0;
}

/* An absent list is refused: taking it for an empty one would remove every pod's interface. Runtimes written in Go
 * write an empty list as null. */
static int check_attachments(struct span document, struct failure *failure)
{
    const char *key = ATTACHMENTS;
    struct span value = {"", 0};
    bool found = false;
    if (find_once(document, key, &value, &found, failure) < 0)
        return -1;
    if (!found) {
        key = ATTACHMENTS_OLD;
        if (find_once(document, key, &value, &found, failure) < 0)
            return -1;
    }
    if (!found)
        return fail(failure, CNI_INVALID_CONFIG, ATTACHMENTS, "GC needs the key %s", ATTACHMENTS);
    if (json_kind(value) == JSON_NULL)
        return 0;
    if (json_kind(value) != JSON_ARRAY)
        return wrong(failure, key, value, "a list is expected");
    struct span element;
    while (json_next(&value, &element)) {
        char text[256];
        struct span field;
        if (json_member(element, "containerID", &field) != 1 || !json_string(field, text, sizeof text)
            || json_member(element, "ifname", &field) != 1 || !json_string(field, text, sizeof text))
            return wrong(failure, key, element, "each attachment needs the strings containerID and ifname");
    }
    return 0;
}

static int check_command(enum cni_command command, enum cni_version version, struct failure *failure)
{
    const char *name = cni_version_names[version];
    if (command == COMMAND_CHECK && version < VERSION_0_4_0)
        return fail(failure, CNI_INCOMPATIBLE_VERSION, "CHECK exists from 0.4.0 on", "cniVersion %s has no CHECK", name);
    if ((command == COMMAND_STATUS || command == COMMAND_GC) && version < VERSION_1_1_0)
        return fail(failure, CNI_INCOMPATIBLE_VERSION, "STATUS and GC exist from 1.1.0 on", "cniVersion %s has no %s",
                    name, command == COMMAND_GC ? "GC" : "STATUS");
    return 0;
}

int read_config(struct span document, enum cni_command command, enum cni_version version, struct config *config,
                struct failure *failure)
{
    (void)snprintf(config->socket, sizeof config->socket, "%s", DEFAULT_SOCKET);
    if (check_command(command, version, failure) < 0 || read_name(document, config, failure) < 0
        || read_path(document, "agentSocket", config->socket, sizeof config->socket, failure) < 0
        || read_path(document, "logFile", config->log_file, sizeof config->log_file, failure) < 0
        || read_log_level(document, &config->log_level, failure) < 0
        || read_timeout(document, &config->timeout_s, failure) < 0)
        return -1;
    if (command == COMMAND_GC)
        return check_attachments(document, failure);
    return check_previous_result(document, command, failure);
}
