/* A model that edgecompile compiled to a shared library, from C or C++.
 *
 *     edgecompile_model *model = edgecompile_open(1);
 *     const void *inputs[] = {image};          // each aligned to 64 bytes
 *     void *outputs[] = {scores};
 *     if (model == NULL || edgecompile_run(model, inputs, outputs)) fprintf(stderr, "%s\n", edgecompile_error());
 *     edgecompile_close(model);
 *
 * The library needs the C library alone (libc, libm, pthread). Link it (cc main.c ./tvm.so) or open it with dlopen, which
 * two models in one program need, as all export the same names: open each with RTLD_LOCAL and look its functions up.
 *
 * Errors: a function that can fail gives NULL or another number than 0, and edgecompile_error() then says why.
 *
 * Threads: a model runs on one thread at a time; the caller sees to that. Different models, of one library too, are
 * independent, and each has worker threads of its own, which wait between runs. A process that forks has to open its
 * models afterwards: threads don't survive it.
 *
 * CPU: a library is compiled for a kind of processor, or has variants for several, of which the CPU's best is taken.
 * Where it lacks an instruction that all of them need, the model can't be opened, and the error says which.
 */

#ifndef EDGECOMPILE_H
#define EDGECOMPILE_H

#ifdef __cplusplus
extern "C" {
#endif

#define EDGECOMPILE_ALIGNED 64 /* bytes, that inputs and outputs begin at multiples of */

typedef struct edgecompile_model edgecompile_model;

/* Why the last call on this thread failed; empty where none did. Valid until the next one fails. */
const char *edgecompile_error(void);

/* JSON, ASCII, as long as the library is loaded, of the variant that this CPU runs. "inputs" and "outputs": [{"name", "shape", "dtype", "scale",
 * "zero_point"}] in the order in which edgecompile_run takes them; of a quantized tensor,
 * real = scale * (stored - zero_point). "arch", "instructions" and "needs": what the CPU has to be and have, by the names
 * of /proc/cpuinfo. "steps": what each call of a run is made of, in order. */
const char *edgecompile_signature(void);

/* A model that runs on `threads` threads, 1 to 64, the caller's among them; best is the number it was compiled for. NULL
 * where there is no memory or no thread for it, or the CPU lacks an instruction. Free it with edgecompile_close. */
edgecompile_model *edgecompile_open(int threads);

/* Ends the model's threads and frees its memory; nothing for NULL. Not while it runs. */
void edgecompile_close(edgecompile_model *model);

/* Runs the model once. inputs, outputs: pointers to its tensors in the signature's order, row-major, without gaps,
 * aligned to 64 bytes, the caller's; inputs are only read. They may be others at each run. 0 where it went well. */
int edgecompile_run(edgecompile_model *model, const void *const *inputs, void *const *outputs);

/* As edgecompile_run, and adds the seconds that each step took to `seconds`, which has a number for each of the
 * signature's steps. */
int edgecompile_profile(edgecompile_model *model, const void *const *inputs, void *const *outputs, double *seconds);

/* Measures for some tenths of a second what one core can do at most: found[0] float32 and found[1] int8
 * multiply-accumulates a second, found[2] bytes a second that it reads of memory as large as the model's. */
int edgecompile_peaks(double *found);

#ifdef __cplusplus
}
#endif

#endif
