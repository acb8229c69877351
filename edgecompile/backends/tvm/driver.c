/* What every compiled model has beside its kernels: it chooses the variant for the CPU, opens the model, runs its steps,
 * and does for TVM's generated code what TVM's own runtime does (threads, scratch memory, errors), so that a board needs
 * nothing but the C library.
 *
 * model.c, which the compiler writes, includes types.h, has its tables and `variants`, the best first, and includes this
 * file.
 */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "edgecompile.h"
#include "variants.h"

/* The oldest versions of what glibc 2.34 moved: else a library linked there could not be loaded on older boards. */
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver pthread_create,pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join,pthread_join@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver pthread_create,pthread_create@GLIBC_2.17");
__asm__(".symver pthread_join,pthread_join@GLIBC_2.17");
#endif

#define EXPORT __attribute__((visibility("default")))
#define ALIGNED EDGECOMPILE_ALIGNED
#define SPINS 20000 /* some 500 us between loops; after it a thread sleeps */
#define YIELDS 1000

/* -- errors */

static _Thread_local char message[512];

EXPORT const char *edgecompile_error(void) { return message; }

void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) {
    snprintf(message, sizeof message, "%s: %s", kind, text);
}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    size_t used = (size_t)snprintf(message, sizeof message, "%s: ", kind);
    for (int32_t i = 0; i < count && used < sizeof message; i++) {
        used += (size_t)snprintf(message + used, sizeof message - used, "%s", parts[i] ? parts[i] : "");
    }
}

static int failed(const char *text) {
    snprintf(message, sizeof message, "%s", text);
    return -1;
}

/* -- threads: generated code hands out a loop's chunks, and waits for all of them. Whoever is free takes the next one, the
 * thread that runs the model among them: a thread that sleeps, or that the system runs something else on, holds up
 * nobody. */

typedef struct {
    void *sync_handle;
    int32_t num_task;
} Group;

typedef int (*Chunk)(int task, Group *group, void *data);

typedef struct {
    int threads; /* with the one that runs the model, and so the chunks of a loop */
    pthread_t others[64];
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    atomic_ullong next; /* number of the loop in its upper half, the chunk that nobody has taken in its lower */
    atomic_uint runs;   /* goes up with each run that finds threads asleep */
    atomic_int asleep, left, status;
    atomic_bool ending;
    Chunk chunk;
    void *data;
    Group group;
} Pool;

static _Thread_local Pool *current; /* that of the model which this thread is running */

/* Waiting for the i-th time: other threads of this CPU get their turn now and then. */
static inline void pause_a_little(int i) {
    if (i % YIELDS == YIELDS - 1) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int open_chunks(Pool *pool) { return (int)(uint32_t)atomic_load(&pool->next) < pool->threads; }

/* Runs a chunk that nobody has taken; 0 where there is none. */
static int take_chunk(Pool *pool) {
    unsigned long long next = atomic_load(&pool->next);
    do {
        if ((int)(uint32_t)next >= pool->threads) return 0;
    } while (!atomic_compare_exchange_weak(&pool->next, &next, next + 1));
    /* The loop that it is of can't end before this chunk is done, so what it is stays as it is. */
    int status = pool->chunk((int)(uint32_t)next, &pool->group, pool->data);
    if (status) atomic_store(&pool->status, status);
    atomic_fetch_sub(&pool->left, 1);
    return 1;
}

static void *serve(void *given) {
    Pool *pool = given;
    for (int i = 0; !atomic_load(&pool->ending); i++) {
        if (take_chunk(pool)) {
            i = 0;
        } else if (i < SPINS) {
            pause_a_little(i);
        } else {
            unsigned runs = atomic_load(&pool->runs);
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->asleep, 1);
            while (!open_chunks(pool) && atomic_load(&pool->runs) == runs && !atomic_load(&pool->ending)) {
                pthread_cond_wait(&pool->wake, &pool->mutex);
            }
            atomic_fetch_sub(&pool->asleep, 1);
            pthread_mutex_unlock(&pool->mutex);
            i = 0;
        }
    }
    return NULL;
}

static void wake(Pool *pool) {
    if (atomic_load(&pool->asleep) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

/* A run begins: threads that sleep wake up while its first steps go on. */
static void begin(Pool *pool) {
    current = pool;
    if (atomic_load(&pool->asleep)) {
        atomic_fetch_add(&pool->runs, 1);
        wake(pool);
    }
}

static int launch(Chunk chunk, void *data, int tasks) {
    Pool *pool = current;
    (void)tasks; /* as many as there are threads */
    if (pool == NULL || pool->threads == 1) {
        Group alone = {NULL, 1};
        return chunk(0, &alone, data);
    }
    pool->chunk = chunk;
    pool->data = data;
    pool->group.num_task = pool->threads;
    atomic_store(&pool->left, pool->threads);
    atomic_store(&pool->next, ((atomic_load(&pool->next) >> 32) + 1) << 32);
    wake(pool);
    while (take_chunk(pool)) {
    }
    for (int i = 0; atomic_load(&pool->left); i++) pause_a_little(i);
    return atomic_exchange(&pool->status, 0);
}

static void close_pool(Pool *pool) {
    atomic_store(&pool->ending, 1);
    wake(pool);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->others[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
}

static int open_pool(Pool *pool, int threads) {
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = threads;
    atomic_store(&pool->next, (unsigned)threads);
    for (int i = 1; i < threads; i++) {
        if (pthread_create(&pool->others[i], NULL, serve, pool)) {
            pool->threads = i; /* those that there are, for close_pool */
            return failed("no more threads can be made");
        }
    }
    return 0;
}

/* -- what generated code asks the runtime for, through pointers that it exports */

static void *allocate(int type, int id, uint64_t bytes, int code, int bits) {
    void *found = NULL;
    (void)type, (void)id, (void)code, (void)bits;
    return posix_memalign(&found, ALIGNED, bytes) ? NULL : found;
}

static int release(int type, int id, void *pointer) {
    (void)type, (void)id;
    free(pointer);
    return 0;
}

extern __attribute__((weak)) int (*__TVMBackendParallelLaunch)(Chunk, void *, int);
extern __attribute__((weak)) void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern __attribute__((weak)) int (*__TVMBackendFreeWorkspace)(int, int, void *);

/* -- which variant this CPU runs */

#define VARIANTS ((int)(sizeof variants / sizeof *variants))

/* /proc/cpuinfo's list of the first CPU's features, with a blank on either side; empty where there is none. */
static void read_features(char *into, size_t size) {
    char line[8192];
    FILE *file = fopen("/proc/cpuinfo", "r");
    into[0] = 0;
    if (file == NULL) return;
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (colon == NULL || (strncmp(line, "flags", 5) && strncmp(line, "Features", 8))) continue;
        snprintf(into, size, " %s", colon + 1);
        for (char *at = into; *at; at++) {
            if (*at == '\n' || *at == '\t') *at = ' ';
        }
        break;
    }
    fclose(file);
}

/* Linux gives a process AMX's tile registers when it is asked for them. */
static int may_use_tiles(void) {
#if defined(__x86_64__)
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return 0;
#endif
}

/* The first feature that a variant needs and the CPU lacks, or NULL. */
static const char *lacking(const Variant *variant, const char *features) {
    char word[64];
    for (const char *const *name = variant->needs; *name; name++) {
        snprintf(word, sizeof word, " %s ", *name);
        if (strstr(features, word) == NULL) return *name;
        if (strcmp(*name, "amx_tile") == 0 && !may_use_tiles()) return *name;
    }
    return NULL;
}

/* The best that runs; where none does the least demanding one, and what the CPU lacks for it in `missing`. */
static const Variant *chosen(const char **missing) {
    char features[8192];
    const Variant *variant = NULL;
    read_features(features, sizeof features);
    for (int i = 0; i < VARIANTS; i++) {
        variant = &variants[i];
        *missing = lacking(variant, features);
        if (*missing == NULL) break;
    }
    return variant;
}

/* -- the model; what is exported is described in edgecompile.h and variants.h */

EXPORT const char *edgecompile_signature(void) {
    const char *missing;
    return chosen(&missing)->signature;
}

typedef struct edgecompile_model {
    const Variant *variant;
    uint8_t *arena;
    Tensor *tensors;
    Any *arguments; /* of all steps, one after the other */
    Pool pool;
} Model;

/* In huge pages where it fills some and the kernel has them: fewer translations, and lines that lie in a row don't take
 * each other's place in the caches. */
static void *arena(size_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };
    void *found = NULL;
    if (posix_memalign(&found, bytes < HUGE_PAGE ? ALIGNED : HUGE_PAGE, bytes)) return NULL;
    if (bytes >= HUGE_PAGE) madvise(found, bytes, MADV_HUGEPAGE);
    return found;
}

EXPORT void edgecompile_close(Model *model) {
    if (model == NULL) return;
    close_pool(&model->pool);
    free(model->arena);
    free(model->tensors);
    free(model->arguments);
    free(model);
}

/* missing: what the CPU lacks for the variant, or NULL. */
static Model *opened(const Variant *variant, const char *missing, int threads) {
    if (missing) {
        snprintf(message, sizeof message, "it is compiled for CPUs with %s, which this one lacks", missing);
        return NULL;
    }
    if (threads < 1 || threads > 64) return failed("the number of threads is 1 to 64"), NULL;
    Model *model = NULL;
    if (posix_memalign((void **)&model, ALIGNED, sizeof *model)) return failed("no memory for the model"), NULL;
    memset(model, 0, sizeof *model);
    model->variant = variant;
    /* Where no loop is handed out, there is nothing for threads to do. */
    if (open_pool(&model->pool, &__TVMBackendParallelLaunch ? threads : 1)) return edgecompile_close(model), NULL;
    size_t count = 0;
    for (int i = 0; i < variant->step_count; i++) count += (size_t)variant->steps[i].count;
    model->tensors = calloc((size_t)variant->place_count, sizeof *model->tensors);
    model->arguments = calloc(count, sizeof *model->arguments);
    model->arena = arena((size_t)variant->arena_bytes + ALIGNED);
    if (model->tensors == NULL || model->arguments == NULL || model->arena == NULL) {
        failed("no memory for what is between the layers");
        return edgecompile_close(model), NULL;
    }
    if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = launch;
    if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = allocate;
    if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = release;
    for (int i = 0; i < variant->place_count; i++) {
        const Place *place = &variant->places[i];
        Tensor *tensor = &model->tensors[i];
        tensor->device.type = CPU;
        tensor->ndim = place->ndim;
        tensor->dtype.code = place->code;
        tensor->dtype.bits = place->bits;
        tensor->dtype.lanes = 1;
        tensor->shape = place->shape;
        if (place->where == ARENA) tensor->data = model->arena + place->offset;
        if (place->where == WEIGHTS) tensor->data = (void *)(edgecompile_weights + place->offset);
    }
    Any *argument = model->arguments;
    for (int i = 0; i < variant->step_count; i++) {
        for (int j = 0; j < variant->steps[i].count; j++, argument++) {
            argument->type_index = TENSOR_POINTER;
            argument->value.pointer = &model->tensors[variant->steps[i].places[j]];
        }
    }
    return model;
}

EXPORT Model *edgecompile_open(int threads) {
    const char *missing;
    const Variant *variant = chosen(&missing);
    return opened(variant, missing, threads);
}

EXPORT int edgecompile_variants(void) { return VARIANTS; }

EXPORT const char *edgecompile_variant_signature(int index) {
    return index < 0 || index >= VARIANTS ? NULL : variants[index].signature;
}

EXPORT Model *edgecompile_open_variant(int threads, int index) {
    char features[8192];
    if (index < 0 || index >= VARIANTS) return failed("the library has no such variant"), NULL;
    read_features(features, sizeof features);
    return opened(&variants[index], lacking(&variants[index], features), threads);
}

static void give(Model *model, const void *const *inputs, void *const *outputs) {
    const Place *places = model->variant->places;
    for (int i = 0; i < model->variant->place_count; i++) {
        if (places[i].where == INPUT) model->tensors[i].data = (void *)inputs[places[i].offset];
        if (places[i].where == OUTPUT) model->tensors[i].data = outputs[places[i].offset];
    }
}

EXPORT int edgecompile_run(Model *model, const void *const *inputs, void *const *outputs) {
    Any result;
    const Any *arguments = model->arguments;
    const Step *step = model->variant->steps, *end = step + model->variant->step_count;
    give(model, inputs, outputs);
    begin(&model->pool);
    for (; step < end; arguments += step->count, step++) {
        int status = step->kernel(NULL, arguments, step->count, &result);
        if (status) return status;
    }
    return 0;
}

EXPORT int edgecompile_peaks(double *found) {
    const char *missing;
    const Variant *variant = chosen(&missing);
    if (missing) return failed("this CPU lacks what the model needs");
    size_t bytes = (size_t)(variant->arena_bytes + variant->weight_bytes + 4095) / 4096 * 4096;
    uint8_t *memory = allocate(CPU, 0, bytes ? bytes : 4096, 0, 0);
    if (memory == NULL) return failed("no memory to measure with");
    memset(memory, 1, bytes ? bytes : 4096);
    variant->measure(memory, bytes ? bytes : 4096, found);
    free(memory);
    return 0;
}

EXPORT int edgecompile_profile(Model *model, const void *const *inputs, void *const *outputs, double *seconds) {
    Any result;
    struct timespec before, after;
    const Any *arguments = model->arguments;
    give(model, inputs, outputs);
    begin(&model->pool);
    for (int i = 0; i < model->variant->step_count; i++) {
        const Step *step = &model->variant->steps[i];
        clock_gettime(CLOCK_MONOTONIC, &before);
        int status = step->kernel(NULL, arguments, step->count, &result);
        if (status) return status;
        clock_gettime(CLOCK_MONOTONIC, &after);
        seconds[i] += (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
        arguments += step->count;
    }
    return 0;
}
