/* What the runtime reads on standard output, in the version that it asked for. */
#ifndef CONTIV_RESULT_H
#define CONTIV_RESULT_H

#include "cni.h"
#include "contiv_cni.pb-c.h"
#include "json.h"

void print_error(struct text *out, enum cni_version version, const struct failure *failure);
void print_versions(struct text *out, const char *echoed);
void print_result(struct text *out, enum cni_version version, const Contiv__Cni__V1__Result *result);

#endif
