/* Runs images that `zeroskip export-c` writes, on any bus that a zeroskip system is on.

   docs/program-format.md says what the numbers are. No memory is allocated: a caller brings what an
   image asks for. */
#ifndef ZEROSKIP_H
#define ZEROSKIP_H

#include <stddef.h>
#include <stdint.h>

/* One 32-bit access at a byte address of the bus. The program that runs images defines both. A write
   comes back when the word was taken, a read when there was one. */
void zsk_write(uint32_t address, uint32_t word);
uint32_t zsk_read(uint32_t address);

/* The page of core `i` of a system. */
#define ZSK_PAGE(i) (0x1000u * ((i) + 1))

enum { ZSK_FILL = -1 };

/* A layer on a tensor core: D [m, n] = A . B, a block of columns of B after another. */
struct zsk_layer {
    const uint32_t *command, *weights, *channels;
    const int32_t *places;      /* of a value in its padded sample, or ZSK_FILL */
    uint32_t m, n, block, chunks, steps, words, keep;
    uint32_t rows_apart, values_apart;  /* the rows of a group, and the values from its channels to
                                           the next one's; m and 0 where all rows see the same */
    int32_t zero_point;         /* of the inputs: what padding reads */
    uint32_t channels_in, height, width, top, left, padded_height, padded_width;
    uint32_t out_height, out_width, down, along;
};

struct zsk_tensorcore {
    uint32_t rows, columns, operands;   /* of the core */
    uint32_t batch, inputs, outputs;    /* samples at a time; values of one */
    uint32_t command_words, weights_words, channel_words, activations_words, output_words;
    uint32_t commands_at, weights_at, channels_at, activations_at, outputs_at, busy_at;
    uint32_t scratch;                   /* bytes that a run needs */
    uint32_t largest;                   /* outputs of a batch in any layer */
    uint32_t layer_count;
    const struct zsk_layer *layers;
};

/* Runs a batch, int8 [batch, inputs], to y [batch, outputs]: sums where the last layer is raw, else
   int8 values. `y` has room for `largest` numbers, `scratch` for as many bytes. */
void zsk_tensorcore_run(const struct zsk_tensorcore *image, uint32_t page, const int8_t *x,
                        int32_t *y, int8_t *scratch);

struct zsk_eie {
    const uint32_t *load;       /* words that load the array */
    uint32_t load_count;
    const int32_t *order;       /* the output that each slot holds, or -1 */
    uint32_t slots, index_bits, inputs, outputs;
    uint32_t load_at, inputs_at, outputs_at;
};

void zsk_eie_load(const struct zsk_eie *image, uint32_t page);

/* Runs a sample, int16 [inputs], to y [outputs], on a loaded array. */
void zsk_eie_run(const struct zsk_eie *image, uint32_t page, const int16_t *x, int16_t *y);

/* Layers that an array does not hold: each is loaded block by block. */
struct zsk_eie_block {
    const uint32_t *load;       /* words that load its weights */
    uint32_t load_count;
    const uint32_t *starts;     /* words for each sample that keep its sums; of the last block of a
                                   row, then those that send all sums up to a sample */
    uint32_t start_count;       /* words for one sample */
    uint32_t first, inputs;     /* of the layer's */
};

struct zsk_eie_row {
    const uint32_t *load;       /* words that load its biases */
    uint32_t load_count;
    const struct zsk_eie_block *blocks;
    uint32_t block_count;
    const int32_t *order;       /* the layer's output that each slot of a sample holds, or -1 */
    uint32_t slots, stride;     /* of a sample, and from one to the next */
};

struct zsk_eie_layer {
    const struct zsk_eie_row *rows;
    uint32_t row_count, inputs, outputs;
    uint32_t samples;           /* whose sums are kept at a time, at most */
};

struct zsk_eie_loads {
    const struct zsk_eie_layer *layers;
    uint32_t layer_count, index_bits, inputs, outputs;
    uint32_t largest;           /* outputs of a sample in any layer */
    uint32_t load_at, inputs_at, outputs_at;
};

/* Runs samples, int16 [samples, inputs], to y [samples, outputs]. `y` and `scratch` have room for
   `largest` numbers a sample each. */
void zsk_eie_run_loads(const struct zsk_eie_loads *image, uint32_t page, uint32_t samples,
                       const int16_t *x, int16_t *y, int16_t *scratch);

#endif
