/* Three compiled programs on a simulated system, from their constants alone; every output is compared
   with the integer reference. */
#include "bus.h"
#include "data.h"
#include "large.h"
#include "net.h"
#include "vector.h"
#include "zeroskip.h"

#include <stdio.h>

static int wrong;

static void check(const char *what, int32_t found, int32_t expected) {
    if (found != expected && wrong++ < 5)
        printf("%s: %d, expected %d\n", what, (int)found, (int)expected);
}

static void run_net(void) {
    static int32_t y[net_largest];
    static int8_t scratch[net_scratch];
    for (uint32_t sample = 0; sample < samples; sample += net.batch) {
        zsk_tensorcore_run(&net, ZSK_PAGE(1), net_x + sample * net.inputs, y, scratch);
        for (uint32_t k = 0; k < net.batch * net.outputs; k++)
            check("tensor core", y[k], net_y[sample * net.outputs + k]);
    }
    printf("tensor core: %u outputs\n", (unsigned)(samples * net.outputs));
}

static void run_vector(void) {
    static int16_t y[vector_outputs];
    zsk_eie_load(&vector, ZSK_PAGE(0));
    for (uint32_t sample = 0; sample < samples; sample++) {
        zsk_eie_run(&vector, ZSK_PAGE(0), vector_x + sample * vector.inputs, y);
        for (uint32_t k = 0; k < vector.outputs; k++)
            check("EIE", y[k], vector_y[sample * vector.outputs + k]);
    }
    printf("EIE: %u outputs\n", (unsigned)(samples * vector.outputs));
}

static void run_large(void) {
    static int16_t y[samples * large_largest], scratch[samples * large_largest];
    zsk_eie_run_loads(&large, ZSK_PAGE(0), samples, large_x, y, scratch);
    for (uint32_t k = 0; k < samples * large.outputs; k++)
        check("EIE in loads", y[k], large_y[k]);
    printf("EIE in loads: %u outputs\n", (unsigned)(samples * large.outputs));
}

int main(int argc, char **argv) {
    if (argc != 2 || bus_open(argv[1]))
        return 2;
    run_net();
    run_vector();
    run_large();
    printf("%s, %u bus cycles\n", wrong ? "WRONG" : "all equal", (unsigned)bus_cycles());
    return wrong != 0;
}
