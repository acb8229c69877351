/* AMX's tile instructions for CPUs without them, in C: what a program gets SIGILL for is done here, and it goes on.
 *
 * Instructions as in Intel's Architecture Instruction Set Extensions manual, chapter 3: those on memory, TILEZERO,
 * TILERELEASE and TDPBUSD. As slow as it is, it computes what the CPU does.
 */

#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

typedef struct {
    int rows, bytes;
    uint8_t data[16][64];
} Tile;

static _Thread_local Tile tiles[8];
static struct sigaction before;
static unsigned long count;

static const int GENERAL[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static void configure(const uint8_t *given) {
    memset(tiles, 0, sizeof tiles);
    for (int i = 0; i < 8; i++) {
        uint16_t bytes;
        memcpy(&bytes, given + 16 + 2 * i, 2);
        tiles[i].bytes = bytes;
        tiles[i].rows = given[48 + i];
    }
}

static void add_products(Tile *c, const Tile *a, const Tile *b) {
    for (int m = 0; m < c->rows; m++) {
        for (int n = 0; n < c->bytes / 4; n++) {
            int32_t sum;
            memcpy(&sum, &c->data[m][4 * n], 4);
            for (int k = 0; k < a->bytes; k++) sum += (int32_t)a->data[m][k] * (int8_t)b->data[k / 4][4 * n + k % 4];
            memcpy(&c->data[m][4 * n], &sum, 4);
        }
    }
}

/* The instruction at the place where the signal came; 0 where it isn't one of these. */
static int done(ucontext_t *context) {
    greg_t *registers = context->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)registers[REG_RIP];
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2) return 0;
    int high_base = !(code[1] & 0x20) * 8, high_index = !(code[1] & 0x40) * 8;
    int prefix = code[2] & 3, second = 15 ^ (code[2] >> 3 & 15), opcode = code[3];
    int mode = code[4] >> 6, reg = code[4] >> 3 & 7, rm = code[4] & 7, length = 5;
    if (mode == 3) {
        if (opcode == 0x5e && prefix == 1) {
            add_products(&tiles[reg], &tiles[rm], &tiles[second]);
        } else if (opcode == 0x49 && prefix == 3) {
            memset(tiles[reg].data, 0, sizeof tiles[reg].data);
        } else if (opcode == 0x49 && prefix == 0) {
            memset(tiles, 0, sizeof tiles);
        } else {
            return 0;
        }
        registers[REG_RIP] += length;
        return 1;
    }
    int64_t address = 0, index = 0;
    int base = rm + high_base;
    if (rm == 4) {
        int sib = code[length++], at = (sib >> 3 & 7) + high_index;
        base = (sib & 7) + high_base;
        if (at != 4) index = registers[GENERAL[at]] << (sib >> 6);
        if ((sib & 7) == 5 && mode == 0) return 0;
    } else if (rm == 5 && mode == 0) {
        return 0;
    }
    address = registers[GENERAL[base]];
    if (mode == 1) address += (int8_t)code[length++];
    if (mode == 2) {
        int32_t apart;
        memcpy(&apart, code + length, 4);
        address += apart;
        length += 4;
    }
    if (opcode == 0x49 && prefix == 0) {
        configure((const uint8_t *)(address + index));
    } else if (opcode == 0x4b && (prefix == 2 || prefix == 3)) {
        for (int row = 0; row < tiles[reg].rows; row++, address += index) {
            if (prefix == 3) memcpy(tiles[reg].data[row], (const void *)address, (size_t)tiles[reg].bytes);
            if (prefix == 2) memcpy((void *)address, tiles[reg].data[row], (size_t)tiles[reg].bytes);
        }
    } else {
        return 0;
    }
    registers[REG_RIP] += length;
    return 1;
}

static void handle(int number, siginfo_t *what, void *context) {
    (void)number, (void)what;
    if (done(context)) {
        __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED);
    } else {
        sigaction(SIGILL, &before, NULL); /* the same instruction again, and the signal to whom it was sent before */
    }
}

void install(void) {
    struct sigaction own = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &own, &before);
}

/* How many instructions were done. */
unsigned long restore(void) {
    sigaction(SIGILL, &before, NULL);
    return __atomic_exchange_n(&count, 0, __ATOMIC_RELAXED);
}
