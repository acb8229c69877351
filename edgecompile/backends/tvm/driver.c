/* What every compiled model has beside its kernels: it opens a model, runs its steps, and does for TVM's generated code
 * what TVM's own runtime does (threads, scratch memory, errors), so that a board needs nothing but the C library.
 *
 * model.c, which the compiler writes, includes types.h, has its tables, and includes this file.
 */

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define ALIGNED 64
#define SPINS 20000 /* some 50 us: a layer's worth; after it a thread sleeps */

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

/* -- threads: generated code hands out a loop's chunks, and waits for all of them */

typedef struct {
    void *sync_handle;
    int32_t num_task;
} Group;

typedef int (*Chunk)(int task, Group *group, void *data);

typedef struct {
    int threads; /* with the one that runs the model */
    pthread_t others[64];
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    atomic_uint turn; /* goes up with each loop */
    atomic_int asleep, left, status;
    atomic_bool ending;
    Chunk chunk;
    void *data;
    Group group;
} Pool;

typedef struct {
    Pool *pool;
    int task;
} Worker;

static _Thread_local Pool *current; /* that of the model which this thread is running */

static inline void pause_a_little(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static void *serve(void *given) {
    Worker own = *(Worker *)given;
    Pool *pool = own.pool;
    free(given);
    for (unsigned seen = 0;;) {
        for (int i = 0; i < SPINS && atomic_load(&pool->turn) == seen; i++) pause_a_little();
        if (atomic_load(&pool->turn) == seen) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->asleep, 1);
            while (atomic_load(&pool->turn) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
            atomic_fetch_sub(&pool->asleep, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen++;
        if (atomic_load(&pool->ending)) return NULL;
        int status = pool->chunk(own.task, &pool->group, pool->data);
        if (status) atomic_store(&pool->status, status);
        atomic_fetch_sub(&pool->left, 1);
    }
}

static void next_turn(Pool *pool) {
    atomic_fetch_add(&pool->turn, 1);
    if (atomic_load(&pool->asleep)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
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
    atomic_store(&pool->left, pool->threads - 1);
    next_turn(pool);
    int status = chunk(0, &pool->group, data);
    while (atomic_load(&pool->left)) pause_a_little();
    return status ? status : atomic_exchange(&pool->status, 0);
}

static void close_pool(Pool *pool) {
    atomic_store(&pool->ending, 1);
    next_turn(pool);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->others[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
}

static int open_pool(Pool *pool, int threads) {
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pool->threads = 1;
    while (pool->threads < threads) {
        Worker *worker = malloc(sizeof *worker);
        if (worker == NULL) return failed("no memory for a thread");
        *worker = (Worker){pool, pool->threads};
        if (pthread_create(&pool->others[pool->threads], NULL, serve, worker)) {
            free(worker);
            return failed("no more threads can be made");
        }
        pool->threads++;
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

/* -- the model */

/* JSON: names, shapes and types of inputs and outputs, what the CPU must have, and what each step is. */
EXPORT const char *edgecompile_signature(void) { return signature; }

typedef struct {
    uint8_t *arena;
    Tensor tensors[PLACES];
    Any arguments[STEPS][MOST_ARGUMENTS];
    Pool pool;
} Model;

EXPORT void edgecompile_close(Model *model) {
    if (model == NULL) return;
    close_pool(&model->pool);
    free(model->arena);
    free(model);
}

/* NULL where there is no memory for it, or no such number of threads; edgecompile_error() says which. */
EXPORT Model *edgecompile_open(int threads) {
    if (threads < 1 || threads > 64) return failed("the number of threads is 1 to 64"), NULL;
    Model *model = NULL;
    if (posix_memalign((void **)&model, ALIGNED, sizeof *model)) return failed("no memory for the model"), NULL;
    memset(model, 0, sizeof *model);
    if (open_pool(&model->pool, threads)) return edgecompile_close(model), NULL;
    if (posix_memalign((void **)&model->arena, ALIGNED, ARENA_BYTES + ALIGNED)) {
        model->arena = NULL;
        failed("no memory for what is between the layers");
        return edgecompile_close(model), NULL;
    }
    if (&__TVMBackendParallelLaunch) __TVMBackendParallelLaunch = launch;
    if (&__TVMBackendAllocWorkspace) __TVMBackendAllocWorkspace = allocate;
    if (&__TVMBackendFreeWorkspace) __TVMBackendFreeWorkspace = release;
    for (int i = 0; i < PLACES; i++) {
        const Place *place = &places[i];
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
    for (int i = 0; i < STEPS; i++) {
        for (int j = 0; j < steps[i].count; j++) {
            model->arguments[i][j].type_index = TENSOR_POINTER;
            model->arguments[i][j].value.pointer = &model->tensors[steps[i].places[j]];
        }
    }
    return model;
}

static void give(Model *model, const void *const *inputs, void *const *outputs) {
    for (int i = 0; i < PLACES; i++) {
        if (places[i].where == INPUT) model->tensors[i].data = (void *)inputs[places[i].offset];
        if (places[i].where == OUTPUT) model->tensors[i].data = outputs[places[i].offset];
    }
}

/* inputs, outputs: in the model's order, contiguous, aligned to 64 bytes. 0, or not with edgecompile_error(). */
EXPORT int edgecompile_run(Model *model, const void *const *inputs, void *const *outputs) {
    Any result;
    give(model, inputs, outputs);
    current = &model->pool;
    for (int i = 0; i < STEPS; i++) {
        int status = steps[i].kernel(NULL, model->arguments[i], steps[i].count, &result);
        if (status) return status;
    }
    return 0;
}

void edgecompile_measure(const uint8_t *memory, size_t bytes, double *found);

/* What one core does at most: see peaks.c. Its memory is as large as the model's. Not 0 where there is none. */
EXPORT int edgecompile_peaks(double *found) {
    size_t bytes = (ARENA_BYTES + WEIGHT_BYTES + 4095) / 4096 * 4096;
    uint8_t *memory = allocate(CPU, 0, bytes ? bytes : 4096, 0, 0);
    if (memory == NULL) return failed("no memory to measure with");
    memset(memory, 1, bytes ? bytes : 4096);
    edgecompile_measure(memory, bytes ? bytes : 4096, found);
    free(memory);
    return 0;
}

/* As edgecompile_run; adds what each step took to `seconds`, in their order. */
EXPORT int edgecompile_profile(Model *model, const void *const *inputs, void *const *outputs, double *seconds) {
    Any result;
    struct timespec before, after;
    give(model, inputs, outputs);
    current = &model->pool;
    for (int i = 0; i < STEPS; i++) {
        clock_gettime(CLOCK_MONOTONIC, &before);
        int status = steps[i].kernel(NULL, model->arguments[i], steps[i].count, &result);
        if (status) return status;
        clock_gettime(CLOCK_MONOTONIC, &after);
        seconds[i] += (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    }
    return 0;
}
