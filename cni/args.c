/* The environment of a CNI call (specification 1.1, section 2, "Parameters"). */
#include "args.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* linux/sched.h: shown by sched.h only to GNU sources; stable ABI */
#ifndef CLONE_NEWNET
#define CLONE_NEWNET 0x40000000
#endif

#define IFNAME_LENGTH_MAX 15 /* IFNAMSIZ - 1 */
#define CONTAINER_ID_LENGTH_MAX 255
#define PATH_LENGTH_MAX 4095 /* PATH_MAX - 1 */
#define CNI_PATH_LENGTH_MAX 65536

static const char *const command_names[] = {"ADD", "DEL", "CHECK", "STATUS", "GC", "VERSION"};

static const char *variable(const char *name)
{
    const char *value = getenv(name);
    return value == NULL ? "" : value;
}

static int wrong(struct failure *failure, const char *name, const char *problem)
{
    return fail(failure, CNI_INVALID_ENVIRONMENT, name, "%s %s", name, problem);
}

int read_command(enum cni_command *command, struct failure *failure)
{
    const char *name = variable("CNI_COMMAND");
    for (size_t index = 0; index < sizeof command_names / sizeof *command_names; index++)
        if (strcmp(name, command_names[index]) == 0) {
            *command = (enum cni_command)index;
            return 0;
        }
    return wrong(failure, "CNI_COMMAND", "must be one of ADD, DEL, CHECK, STATUS, GC, VERSION");
}

static bool is_utf8(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    const unsigned char *end = at + strlen(text);
    while (at < end) {
        size_t sequence = utf8_sequence(at, end);
        if (sequence == 0)
            return false;
        at += sequence;
    }
    return true;
}

/* Stricter than the kernel where that costs nothing: '%' would be a template for it ("eth%d"), and names outside
 * of ASCII cannot be told apart by people. */
static bool is_interface_name(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > IFNAME_LENGTH_MAX || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return false;
    for (const char *at = name; *at != '\0'; at++)
        if (*at <= ' ' || *at > '~' || strchr("/:%", *at) != NULL)
            return false;
    return true;
}

static int check_container_id(const char *id, struct failure *failure)
{
    if (id[0] == '\0')
        return wrong(failure, "CNI_CONTAINERID", "is missing");
    if (!is_identifier(id) || strlen(id) > CONTAINER_ID_LENGTH_MAX)
        return wrong(failure, "CNI_CONTAINERID", "must match [a-zA-Z0-9][a-zA-Z0-9_.-]* with at most 255 characters");
    return 0;
}

static int check_ifname(const char *name, struct failure *failure)
{
    if (name[0] == '\0')
        return wrong(failure, "CNI_IFNAME", "is missing");
    if (!is_interface_name(name))
        return wrong(failure, "CNI_IFNAME",
                     "must have 1 to 15 visible ASCII characters without '/', ':' and '%', and be neither '.' nor '..'");
    return 0;
}

/* A path that leads to a network namespace of this kernel. Opening is harmless: a fifo does not block the call. */
static int check_netns(const char *path, struct failure *failure)
{
    if (path[0] == '\0')
        return wrong(failure, "CNI_NETNS", "is missing");
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (descriptor < 0)
        return wrong(failure, "CNI_NETNS", "cannot be opened; the container may be gone");
    int kind = ioctl(descriptor, NS_GET_NSTYPE);
    (void)close(descriptor);
    return kind == CLONE_NEWNET ? 0 : wrong(failure, "CNI_NETNS", "is no network namespace");
}

static int check_text(const char *name, const char *value, size_t most, struct failure *failure)
{
    if (strlen(value) > most)
        return wrong(failure, name, "is too long");
    return is_utf8(value) ? 0 : wrong(failure, name, "is no UTF-8");
}

int read_environment(enum cni_command command, struct environment *environment, struct failure *failure)
{
    bool attached = command == COMMAND_ADD || command == COMMAND_DEL || command == COMMAND_CHECK;
    *environment = (struct environment){.container_id = "", .netns = "", .ifname = "", .path = variable("CNI_PATH")};
    if (check_text("CNI_PATH", environment->path, CNI_PATH_LENGTH_MAX, failure) < 0)
        return -1;
    if (!attached)
        return 0;
    environment->container_id = variable("CNI_CONTAINERID");
    environment->netns = variable("CNI_NETNS");
    environment->ifname = variable("CNI_IFNAME");
    if (check_container_id(environment->container_id, failure) < 0 || check_ifname(environment->ifname, failure) < 0
        || check_text("CNI_NETNS", environment->netns, PATH_LENGTH_MAX, failure) < 0)
        return -1;
    /* DEL comes after the namespace is gone, too */
    if (command != COMMAND_DEL && check_netns(environment->netns, failure) < 0)
        return -1;
    return parse_pod_args(variable("CNI_ARGS"), &environment->pod, failure);
}

static char *pod_field(struct pod_args *pod, const char *key, size_t length)
{
    const struct {
        const char *key;
        char *field;
    } known[] = {
        {"K8S_POD_NAMESPACE", pod->namespace},
        {"K8S_POD_NAME", pod->name},
        {"K8S_POD_INFRA_CONTAINER_ID", pod->infra_container_id},
        {"K8S_POD_UID", pod->uid},
    };
    for (size_t index = 0; index < sizeof known / sizeof *known; index++)
        if (strlen(known[index].key) == length && memcmp(known[index].key, key, length) == 0)
            return known[index].field;
    return NULL;
}

/* Kubernetes' names are DNS labels and UIDs; anything else is no pod's. */
static bool copy_pod_field(char *field, const char *value, size_t length)
{
    if (length >= sizeof((struct pod_args *)NULL)->name)
        return false;
    memcpy(field, value, length);
    field[length] = '\0';
    return length == 0 || is_identifier(field);
}

int parse_pod_args(const char *text, struct pod_args *pod, struct failure *failure)
{
    bool ignore_unknown = false;
    bool unknown = false;
    memset(pod, 0, sizeof *pod);
    for (const char *at = text; *at != '\0';) {
        size_t pair = strcspn(at, ";");
        const char *equals = memchr(at, '=', pair);
        if (pair > 0 && equals == NULL)
            return wrong(failure, "CNI_ARGS", "must read KEY=value;KEY=value");
        if (equals != NULL) {
            size_t key = (size_t)(equals - at);
            size_t length = pair - key - 1;
            char *field = pod_field(pod, at, key);
            if (field != NULL && !copy_pod_field(field, equals + 1, length))
                return wrong(failure, "CNI_ARGS", "has a K8S_POD value that is no Kubernetes name");
            if (key == strlen("IgnoreUnknown") && memcmp(at, "IgnoreUnknown", key) == 0)
                ignore_unknown = (length == 1 && equals[1] == '1')
                                 || (length == 4 && strncasecmp(equals + 1, "true", 4) == 0);
            else
                unknown = unknown || field == NULL;
        }
        at += pair + (at[pair] == ';');
    }
    if (unknown && !ignore_unknown)
        return wrong(failure, "CNI_ARGS", "has an unknown key and no IgnoreUnknown=1");
    return 0;
}
