/* Results by version (CNI specification, "Result Types"): 0.3.1 and 0.4.0 tell each address's family, 1.0.0 does not,
 * 1.1.0 adds MTU, socket path and PCI address of interfaces, and metrics of routes. */
#include "result.h"

#include <string.h>

/* "a":1,"b":2 with commas only between. */
static void key(struct text *out, const char *name)
{
    if (out->length > 0 && strchr("{[", out->at[out->length - 1]) == NULL)
        text_raw(out, ",");
    if (name == NULL)
        return;
    text_string(out, name);
    text_raw(out, ":");
}

static void string_member(struct text *out, const char *name, const char *value)
{
    key(out, name);
    text_string(out, value);
}

static void filled_member(struct text *out, const char *name, const char *value)
{
    if (value[0] != '\0')
        string_member(out, name, value);
}

static void number_member(struct text *out, const char *name, unsigned long value)
{
    key(out, name);
    text_number(out, value);
}

static void optional_member(struct text *out, const char *name, const Contiv__Cni__V1__Number *number)
{
    if (number != NULL)
        number_member(out, name, number->value);
}

static void print_interface(struct text *out, enum cni_version version, const Contiv__Cni__V1__Interface *interface)
{
    key(out, NULL);
    text_raw(out, "{");
    string_member(out, "name", interface->name);
    filled_member(out, "mac", interface->mac);
    filled_member(out, "sandbox", interface->sandbox);
    if (version >= VERSION_1_1_0) {
        if (interface->mtu != 0)
            number_member(out, "mtu", interface->mtu);
        filled_member(out, "socketPath", interface->socket_path);
        filled_member(out, "pciID", interface->pci_id);
    }
    text_raw(out, "}");
}

static void print_ip(struct text *out, enum cni_version version, const Contiv__Cni__V1__IPConfig *ip)
{
    key(out, NULL);
    text_raw(out, "{");
    if (version < VERSION_1_0_0)
        string_member(out, "version", strchr(ip->address, ':') != NULL ? "6" : "4");
    optional_member(out, "interface", ip->interface);
    string_member(out, "address", ip->address);
    filled_member(out, "gateway", ip->gateway);
    text_raw(out, "}");
}

static void print_route(struct text *out, enum cni_version version, const Contiv__Cni__V1__Route *route)
{
    key(out, NULL);
    text_raw(out, "{");
    string_member(out, "dst", route->dst);
    filled_member(out, "gw", route->gw);
    if (version >= VERSION_1_1_0) {
        optional_member(out, "mtu", route->mtu);
        optional_member(out, "advmss", route->advmss);
        optional_member(out, "priority", route->priority);
        optional_member(out, "table", route->table);
        optional_member(out, "scope", route->scope);
    }
    text_raw(out, "}");
}

static void print_strings(struct text *out, const char *name, char *const *values, size_t count)
{
    if (count == 0)
        return;
    key(out, name);
    text_raw(out, "[");
    for (size_t index = 0; index < count; index++)
        string_member(out, NULL, values[index]);
    text_raw(out, "]");
}

static void print_dns(struct text *out, const Contiv__Cni__V1__DNS *dns)
{
    key(out, "dns");
    text_raw(out, "{");
    if (dns != NULL) {
        print_strings(out, "nameservers", dns->nameservers, dns->n_nameservers);
        filled_member(out, "domain", dns->domain);
        print_strings(out, "search", dns->search, dns->n_search);
        print_strings(out, "options", dns->options, dns->n_options);
    }
    text_raw(out, "}");
}

void print_result(struct text *out, enum cni_version version, const Contiv__Cni__V1__Result *result)
{
    text_raw(out, "{");
    string_member(out, "cniVersion", cni_version_names[version]);
    key(out, "interfaces");
    text_raw(out, "[");
    for (size_t index = 0; index < result->n_interfaces; index++)
        print_interface(out, version, result->interfaces[index]);
    text_raw(out, "]");
    key(out, "ips");
    text_raw(out, "[");
    for (size_t index = 0; index < result->n_ips; index++)
        print_ip(out, version, result->ips[index]);
    text_raw(out, "]");
    key(out, "routes");
    text_raw(out, "[");
    for (size_t index = 0; index < result->n_routes; index++)
        print_route(out, version, result->routes[index]);
    text_raw(out, "]");
    print_dns(out, result->dns);
    text_raw(out, "}\n");
}

void print_error(struct text *out, enum cni_version version, const struct failure *failure)
{
    text_raw(out, "{");
    string_member(out, "cniVersion", cni_version_names[version]);
    number_member(out, "code", (unsigned long)failure->code);
    string_member(out, "msg", failure->msg);
    filled_member(out, "details", failure->details);
    text_raw(out, "}\n");
}

void print_versions(struct text *out, const char *echoed)
{
    text_raw(out, "{");
    string_member(out, "cniVersion", echoed);
    key(out, "supportedVersions");
    text_raw(out, "[");
    for (int index = 0; index < VERSION_COUNT; index++)
        string_member(out, NULL, cni_version_names[index]);
    text_raw(out, "]}\n");
}
