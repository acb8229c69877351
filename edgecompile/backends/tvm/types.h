/* What the tables of a compiled model are made of; model.c includes this first, and driver.c last. */

#include <stddef.h>
#include <stdint.h>

/* -- the calling convention of TVM's generated functions (tvm/ffi/c_api.h and dlpack.h, laid out as there) */

typedef struct {
    int32_t type_index;
    uint32_t padding;
    union {
        int64_t integer;
        void *pointer;
    } value;
} Any;

typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    const int64_t *shape, *strides;
    uint64_t byte_offset;
} Tensor;

enum { TENSOR_POINTER = 7, CPU = 1 };

typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);

/* -- the model's tables */

/* where: in the arena, in the weights, or a place that the caller gives for each run. */
enum { ARENA, WEIGHTS, INPUT, OUTPUT };

typedef struct {
    int32_t where;
    uint64_t offset; /* bytes; of INPUT and OUTPUT, which one it is */
    uint8_t code, bits;
    int32_t ndim;
    const int64_t *shape;
} Place;

typedef struct {
    Kernel kernel;
    int32_t count;
    const int32_t *places; /* indices of arguments */
} Step;

/* The model for one instruction set. signature: JSON, see driver.c. needs: features of the CPU, by the names that
 * /proc/cpuinfo has for them; NULL ends them. measure: see peaks.c. */
typedef struct {
    const char *signature;
    const char *const *needs;
    int32_t place_count, step_count;
    const Place *places;
    const Step *steps;
    uint64_t arena_bytes, weight_bytes;
    void (*measure)(const uint8_t *memory, size_t bytes, double *found);
} Variant;

extern const uint8_t edgecompile_weights[];
