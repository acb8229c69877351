/* For checks of a library that has variants for several sets of instructions: edgecompile_open takes the CPU's best, these
 * functions any that it runs. A program has no need of them (edgecompile.h). */

#ifndef EDGECOMPILE_VARIANTS_H
#define EDGECOMPILE_VARIANTS_H

#include "edgecompile.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How many there are, the best first. */
int edgecompile_variants(void);

/* As edgecompile_signature, of the variant with this index, whether or not the CPU runs it; NULL where there is none. */
const char *edgecompile_variant_signature(int index);

/* As edgecompile_open, with the variant of this index. */
edgecompile_model *edgecompile_open_variant(int threads, int index);

#ifdef __cplusplus
}
#endif

#endif
