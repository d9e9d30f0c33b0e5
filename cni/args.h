/* The environment that a runtime sets: checked, and CNI_ARGS taken apart. */
#ifndef CONTIV_ARGS_H
#define CONTIV_ARGS_H

#include "cni.h"

/* The keys of CNI_ARGS that Kubernetes' runtimes use. A pod's name and namespace have at most 253 characters. */
struct pod_args {
    char namespace[256];
    char name[256];
    char infra_container_id[256];
    char uid[256];
};

/* Strings belong to the environment; never NULL, empty where the variable is absent. */
struct environment {
    const char *container_id;
    const char *netns;
    const char *ifname;
    const char *path;
    struct pod_args pod;
};

/* CNI_COMMAND. */
int read_command(enum cni_command *command, struct failure *failure);

/* The variables that `command` needs. Whatever is wrong is code 4 with the variable's name. */
int read_environment(enum cni_command command, struct environment *environment, struct failure *failure);

/* "KEY=value;KEY=value". Unknown keys are refused unless IgnoreUnknown is 1 or true, as the CNI conventions say. */
int parse_pod_args(const char *text, struct pod_args *pod, struct failure *failure);

#endif
