/* TFLite_Detection_PostProcess: boxes from what a network says of anchors, and the best that don't overlap too much.
 *
 * In float64 and float32 where LiteRT computes in them, so that the same boxes are left; compile without contraction of
 * products and sums. Scores that are equal keep the order in which LiteRT leaves them, which comes of a heap where it
 * looks for a box's best classes.
 */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "types.h"

/* The oldest version of exp that glibc has: see driver.c. */
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver exp,exp@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver exp,exp@GLIBC_2.17");
#endif

enum { UNSIGNED = 1, FLOAT = 2 }; /* of DLPack */

typedef struct {
    float top, left, bottom, right;
} Box;

/* Constants of lowerings/detection.py, in its order. box, score and anchor: how integers are read. */
typedef struct {
    float threshold, overlap, scale_y, scale_x, scale_h, scale_w;
    struct {
        float zero, scale;
    } box, score, anchor;
} Numbers;

/* width: numbers of a box. columns: scores of a box, one more than classes where the first is the background's. most:
 * detections; each: of one class, where regular; classes_each: classes of one detection, where not. */
typedef struct {
    int32_t boxes, width, columns, classes, most, each, classes_each, regular;
} Counts;

typedef struct {
    int32_t boxes, columns;
    const Tensor *encoded, *scores, *anchors;
    const Numbers *numbers;
    const Counts *counts;
    Box *decoded;
    float *column, *kept; /* scores of one class; of what is chosen so far */
    uint8_t *open;        /* boxes that may still be chosen */
    int32_t *chosen, *places, *order;
} Work;

extern void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text);

static float number(const Tensor *tensor, int32_t at, float zero, float scale) {
    if (tensor->dtype.code == FLOAT) return ((const float *)tensor->data)[at];
    int32_t value = tensor->dtype.code == UNSIGNED ? ((const uint8_t *)tensor->data)[at] : ((const int8_t *)tensor->data)[at];
    return ((float)value - zero) * scale;
}

/* Of a box and a class, without the background. */
static float score(const Work *work, int32_t box, int32_t class) {
    int32_t first = work->columns - work->counts->classes;
    return number(work->scores, box * work->columns + first + class, work->numbers->score.zero, work->numbers->score.scale);
}

/* 0 where a box has no height or width below 0, as LiteRT demands. */
static int decode(Work *work) {
    const Numbers *of = work->numbers;
    for (int32_t i = 0; i < work->boxes; i++) {
        double given[4], anchor[4];
        for (int32_t j = 0; j < 4; j++) {
            given[j] = number(work->encoded, i * work->counts->width + j, of->box.zero, of->box.scale);
            anchor[j] = number(work->anchors, i * 4 + j, of->anchor.zero, of->anchor.scale);
        }
        float y = (float)(given[0] / (double)of->scale_y * anchor[2] + anchor[0]);
        float x = (float)(given[1] / (double)of->scale_x * anchor[3] + anchor[1]);
        float half_h = (float)(0.5 * exp(given[2] / (double)of->scale_h) * anchor[2]);
        float half_w = (float)(0.5 * exp(given[3] / (double)of->scale_w) * anchor[3]);
        Box box = {y - half_h, x - half_w, y + half_h, x + half_w};
        if (box.top > box.bottom || box.left > box.right) return -1;
        work->decoded[i] = box;
    }
    return 0;
}

static float larger(float a, float b) { return a < b ? b : a; }
static float smaller(float a, float b) { return b < a ? b : a; }

/* Intersection over union; 0 for boxes without area. */
static float overlap(const Box *a, const Box *b) {
    float first = (a->bottom - a->top) * (a->right - a->left), second = (b->bottom - b->top) * (b->right - b->left);
    if (first <= 0 || second <= 0) return 0;
    float height = smaller(a->bottom, b->bottom) - larger(a->top, b->top);
    float width = smaller(a->right, b->right) - larger(a->left, b->left);
    float both = larger(height, 0) * larger(width, 0);
    return both / (first + second - both);
}

/* Boxes by work->column, the best first and of equal ones the first, without those that a better one overlaps; how many
 * of at most `most` there are in work->chosen. */
static int32_t suppress(Work *work, int32_t most) {
    int32_t found = 0;
    for (int32_t i = 0; i < work->boxes; i++) work->open[i] = work->column[i] >= work->numbers->threshold;
    while (found < most) {
        int32_t best = -1;
        for (int32_t i = 0; i < work->boxes; i++) {
            if (work->open[i] && (best < 0 || work->column[i] > work->column[best])) best = i;
        }
        if (best < 0) break;
        work->chosen[found++] = best;
        work->open[best] = 0;
        for (int32_t i = 0; i < work->boxes; i++) {
            if (work->open[i] && overlap(&work->decoded[best], &work->decoded[i]) > work->numbers->overlap) work->open[i] = 0;
        }
    }
    return found;
}

/* Puts `item` into the heap order[0 ... count), whose place `hole` is free: its least score is at the top. */
static void settle(const float *scores, int32_t *order, int32_t hole, int32_t count, int32_t item) {
    int32_t top = hole, child = hole;
    while (child < (count - 1) / 2) {
        child = 2 * (child + 1);
        if (scores[order[child]] > scores[order[child - 1]]) child--;
        order[hole] = order[child];
        hole = child;
    }
    if (count % 2 == 0 && child == (count - 2) / 2) {
        child = 2 * child + 1;
        order[hole] = order[child];
        hole = child;
    }
    for (int32_t parent = (hole - 1) / 2; hole > top && scores[order[parent]] > scores[item]; parent = (hole - 1) / 2) {
        order[hole] = order[parent];
        hole = parent;
    }
    order[hole] = item;
}

/* The `most` best of `count` scores are in order[0 ... most) then, the best first. */
static void sort(const float *scores, int32_t count, int32_t most, int32_t *order) {
    for (int32_t i = 0; i < count; i++) order[i] = i;
    if (most == 1) {
        for (int32_t i = 1; i < count; i++) { /* one that is no number is never the best */
            if (scores[i] > scores[order[0]] || isnan(scores[order[0]])) order[0] = i;
        }
        return;
    }
    for (int32_t i = (most - 2) / 2; i >= 0; i--) settle(scores, order, i, most, order[i]);
    for (int32_t i = most; i < count; i++) {
        int32_t item = order[i];
        if (!(scores[item] > scores[order[0]])) continue;
        order[i] = order[0];
        settle(scores, order, 0, most, item);
    }
    for (int32_t last = most - 1; last > 0; last--) {
        int32_t item = order[last];
        order[last] = order[0];
        settle(scores, order, 0, last, item);
    }
}

/* Where the detections are written. */
typedef struct {
    Box *boxes;
    float *classes, *scores, *count;
} Detections;

/* One class after the other: the best of it and of all before it, of equal ones those before it first. */
static void each_class(Work *work, const Detections *into) {
    int32_t classes = work->counts->classes, most = work->counts->most, held = 0;
    for (int32_t class = 0; class < classes; class++) {
        for (int32_t i = 0; i < work->boxes; i++) work->column[i] = score(work, i, class);
        int32_t found = suppress(work, work->counts->each);
        for (int32_t i = 0; i < found; i++) {
            int32_t box = work->chosen[i], at = held;
            while (at > 0 && work->column[box] > work->kept[at - 1]) at--;
            if (at == most) break;
            int32_t moved = (held < most ? held : most - 1) - at;
            memmove(work->kept + at + 1, work->kept + at, (size_t)moved * sizeof *work->kept);
            memmove(work->places + at + 1, work->places + at, (size_t)moved * sizeof *work->places);
            work->kept[at] = work->column[box];
            work->places[at] = box * classes + class;
            held += held < most;
        }
    }
    for (int32_t i = 0; i < held; i++) {
        into->boxes[i] = work->decoded[work->places[i] / classes];
        into->classes[i] = (float)(work->places[i] % classes);
        into->scores[i] = work->kept[i];
    }
    *into->count = (float)held;
}

/* Boxes by their best class, then the best classes of each that is left. */
static void all_classes(Work *work, const Detections *into) {
    int32_t classes = work->counts->classes, each = work->counts->classes_each;
    int32_t many = each < classes ? each : classes;
    for (int32_t i = 0; i < work->boxes; i++) {
        for (int32_t class = 0; class < classes; class++) work->kept[class] = score(work, i, class);
        sort(work->kept, classes, many, work->order);
        work->column[i] = work->kept[work->order[0]];
    }
    int32_t found = suppress(work, work->counts->most);
    for (int32_t i = 0; i < found; i++) {
        int32_t box = work->chosen[i];
        for (int32_t class = 0; class < classes; class++) work->kept[class] = score(work, box, class);
        sort(work->kept, classes, many, work->order);
        for (int32_t j = 0; j < many; j++) {
            into->boxes[i * each + j] = work->decoded[box];
            into->classes[i * each + j] = (float)work->order[j];
            into->scores[i * each + j] = work->kept[work->order[j]];
        }
    }
    *into->count = (float)found;
}

int __tvm_ffi_detections(void *self, const Any *arguments, int32_t count, Any *result) {
    const Tensor *given[16];
    (void)self, (void)result;
    for (int32_t i = 0; i < count; i++) given[i] = arguments[i].value.pointer;
    const Counts *counts = given[4]->data;
    Work work = {
        .boxes = counts->boxes,
        .columns = counts->columns,
        .encoded = given[0],
        .scores = given[1],
        .anchors = given[2],
        .numbers = given[3]->data,
        .counts = counts,
        .decoded = given[5]->data,
        .column = given[6]->data,
        .kept = given[7]->data,
        .open = given[8]->data,
        .chosen = given[9]->data,
        .places = given[10]->data,
        .order = given[11]->data,
    };
    Detections into = {given[12]->data, given[13]->data, given[14]->data, given[15]->data};
    size_t rows = (size_t)counts->most * (size_t)counts->classes_each;
    if (decode(&work)) {
        TVMFFIErrorSetRaisedFromCStr("TFLite_Detection_PostProcess", "a box ends before it begins: its anchor's size is below 0");
        return -1;
    }
    memset(into.boxes, 0, rows * sizeof *into.boxes);
    memset(into.classes, 0, rows * sizeof *into.classes);
    memset(into.scores, 0, rows * sizeof *into.scores);
    if (counts->regular) {
        each_class(&work, &into);
    } else {
        all_classes(&work, &into);
    }
    return 0;
}
