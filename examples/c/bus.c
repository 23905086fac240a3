/* The bus of a simulated system, through the functions that a compiled model exports
   (sim/clock_loop.h). On a chip, zsk_write and zsk_read are accesses to memory. */
#include "bus.h"
#include "zeroskip.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct port { void *in; const void *out; uint64_t width; };

enum { OK, RANGE, BUSY, PATIENCE = 1000000 };   /* status of a response; cycles to wait at most */

static void *design;
static void (*tick)(void *, uint64_t);
static struct port request, request_valid, response, response_valid, response_ready;
static uint64_t cycles;

static void set(struct port *port, uint64_t bits) {
    memcpy(port->in, &bits, (port->width + 7) / 8);
}

static uint64_t get(const struct port *port) {
    uint64_t bits = 0;
    memcpy(&bits, port->out, (port->width + 7) / 8);
    return bits;
}

int bus_open(const char *path) {
    void *library = dlopen(path, RTLD_NOW), *(*create)(void);
    _Bool (*find)(void *, const char *, struct port *);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    *(void **)&create = dlsym(library, "zeroskip_create");
    *(void **)&find = dlsym(library, "zeroskip_find");
    *(void **)&tick = dlsym(library, "zeroskip_tick");
    design = create();
    if (!find(design, "bus__request__payload", &request)
        || !find(design, "bus__request__valid", &request_valid)
        || !find(design, "bus__response__payload", &response)
        || !find(design, "bus__response__valid", &response_valid)
        || !find(design, "bus__response__ready", &response_ready)) {
        fprintf(stderr, "%s: not a model of an accelerator\n", path);
        return 1;
    }
    return 0;
}

uint64_t bus_cycles(void) { return cycles; }

static void next_cycle(void) {
    tick(design, 1);
    cycles++;
}

/* A request that is taken at once, for there is never another on its way; its response. */
static uint64_t transfer(uint32_t address, int write, uint32_t word) {
    set(&request, address | (uint64_t)write << 16 | (uint64_t)0xf << 17 | (uint64_t)word << 21);
    set(&request_valid, 1);
    set(&response_ready, 1);
    next_cycle();
    set(&request_valid, 0);
    while (!get(&response_valid))
        next_cycle();
    uint64_t found = get(&response);
    next_cycle();
    return found;
}

static uint32_t until_done(uint32_t address, int write, uint32_t word) {
    for (uint64_t limit = cycles + PATIENCE; cycles < limit;) {
        uint64_t found = transfer(address, write, word);
        if (found >> 32 == OK)
            return (uint32_t)found;
        if (found >> 32 == RANGE)
            break;
    }
    fprintf(stderr, "the bus does not take 0x%04x\n", address);
    exit(1);
}

void zsk_write(uint32_t address, uint32_t word) { until_done(address, 1, word); }
uint32_t zsk_read(uint32_t address) { return until_done(address, 0, 0); }
