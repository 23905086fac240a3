#include "zeroskip.h"

#include <string.h>

static uint32_t at_most(uint32_t a, uint32_t b) { return a < b ? a : b; }

static void write_words(uint32_t address, const uint32_t *words, uint32_t count) {
    for (uint32_t k = 0; k < count; k++)
        zsk_write(address, words[k]);
}

/* --- tensor core --- */

struct run {
    const struct zsk_tensorcore *image;
    const struct zsk_layer *layer;
    uint32_t page;
    int8_t *padded;     /* the layer's inputs, with padding around each sample */
    int32_t *y;         /* its outputs, sample by sample, channel by channel */
};

static uint32_t sample_size(const struct zsk_layer *l) {
    return l->channels_in * l->padded_height * l->padded_width;
}

static void pad(const struct run *run, const int8_t *x) {
    const struct zsk_layer *l = run->layer;
    uint32_t planes = run->image->batch * l->channels_in;
    memset(run->padded, (int)l->zero_point, run->image->batch * sample_size(l));
    for (uint32_t plane = 0; plane < planes; plane++)
        for (uint32_t row = 0; row < l->height; row++)
            memcpy(run->padded + (plane * l->padded_height + l->top + row) * l->padded_width
                       + l->left,
                   x + (plane * l->height + row) * l->width, l->width);
}

/* One word of each of a tile's columns, for a panel of rows. */
static void send_activations(const struct run *run, uint32_t row, uint32_t tile, uint32_t end,
                             uint32_t word) {
    const struct zsk_tensorcore *image = run->image;
    const struct zsk_layer *l = run->layer;
    const int32_t *places = l->places + word * image->operands;
    uint32_t positions = l->out_height * l->out_width, filled = 0, item = 0;
    for (uint32_t column = 0; column < image->columns; column++) {
        uint32_t n = tile + column, position = n % positions;
        const int8_t *patch = run->padded + n / positions * sample_size(l)
            + position / l->out_width * l->down + position % l->out_width * l->along
            + row / l->rows_apart * l->values_apart;
        for (uint32_t operand = 0; operand < image->operands; operand++) {
            int inside = n < end && places[operand] != ZSK_FILL;
            uint32_t byte = inside ? (uint8_t)patch[places[operand]] : 0;
            item |= byte << 8 * filled++;
            if (filled == 4) {
                zsk_write(run->page + image->activations_at, item);
                filled = item = 0;
            }
        }
    }
    if (filled)
        zsk_write(run->page + image->activations_at, item);
}

/* A row of a finished tile: an output of each of its columns, and flags that nobody asks for. */
static void receive_outputs(const struct run *run, uint32_t tile, uint32_t row) {
    const struct zsk_layer *l = run->layer;
    uint32_t positions = l->out_height * l->out_width;
    for (uint32_t k = 0; k < run->image->output_words; k++) {
        uint32_t word = zsk_read(run->page + run->image->outputs_at), n = tile + k;
        if (k < run->image->columns && n < l->n)
            run->y[(n / positions * l->m + row) * positions + n % positions] = (int32_t)word;
    }
}

/* All rows of A on a block of columns. */
static void run_block(const struct run *run, uint32_t first) {
    const struct zsk_tensorcore *image = run->image;
    const struct zsk_layer *l = run->layer;
    uint32_t end = at_most(first + l->block, l->n);
    const uint32_t *weights = l->weights;
    for (uint32_t row = 0; row < l->m; row += image->rows) {
        uint32_t rows = at_most(image->rows, l->m - row);
        write_words(run->page + image->channels_at, l->channels + row * image->channel_words,
                    rows * image->channel_words);
        for (uint32_t chunk = 0; chunk < l->chunks; chunk++) {
            uint32_t count = l->steps * image->weights_words;
            if (first == 0 || !l->keep)
                write_words(run->page + image->weights_at, weights, count);
            weights += count;
            if (row == 0 || l->chunks > 1)
                for (uint32_t tile = first; tile < end; tile += image->columns)
                    for (uint32_t word = 0; word < l->words; word++)
                        send_activations(run, row, tile, end, chunk * l->words + word);
        }
        for (uint32_t tile = first; tile < end; tile += image->columns)
            for (uint32_t k = 0; k < rows; k++)
                receive_outputs(run, tile, row + k);
    }
}

void zsk_tensorcore_run(const struct zsk_tensorcore *image, uint32_t page, const int8_t *x,
                        int32_t *y, int8_t *scratch) {
    struct run run = {image, image->layers, page, scratch, y};
    int8_t *values = scratch + image->scratch - image->largest;     /* between two layers */
    for (const struct zsk_layer *end = image->layers + image->layer_count; run.layer < end;
         run.layer++) {
        pad(&run, x);
        write_words(page + image->commands_at, run.layer->command, image->command_words);
        for (uint32_t first = 0; first < run.layer->n; first += run.layer->block)
            run_block(&run, first);
        while (zsk_read(page + image->busy_at))
            ;
        for (uint32_t k = 0; k < run.layer->m * run.layer->n; k++)
            values[k] = (int8_t)y[k];
        x = values;
    }
}

/* --- EIE --- */

void zsk_eie_load(const struct zsk_eie *image, uint32_t page) {
    write_words(page + image->load_at, image->load, image->load_count);
}

static void send_vector(uint32_t address, const int16_t *x, uint32_t count) {
    for (uint32_t k = 0; k < count; k++)
        zsk_write(address, (uint16_t)x[k] | (uint32_t)(k == count - 1) << 16);
}

static uint64_t receive_item(uint32_t address, uint32_t index_bits) {
    uint64_t item = zsk_read(address);
    if (index_bits + 17 > 32)
        item |= (uint64_t)zsk_read(address) << 32;
    return item;
}

void zsk_eie_run(const struct zsk_eie *image, uint32_t page, const int16_t *x, int16_t *y) {
    send_vector(page + image->inputs_at, x, image->inputs);
    for (uint32_t k = 0; k < image->slots; k++) {
        uint64_t item = receive_item(page + image->outputs_at, image->index_bits);
        int32_t output = image->order[item & ((1u << image->index_bits) - 1)];
        if (output >= 0)
            y[output] = (int16_t)(item >> image->index_bits);
    }
}

/* A block of rows of a layer for so many samples: those of x, to y. */
static void run_row(const struct zsk_eie_loads *image, const struct zsk_eie_layer *layer,
                    const struct zsk_eie_row *row, uint32_t page, uint32_t samples,
                    const int16_t *x, int16_t *y) {
    for (uint32_t k = 0; k < row->block_count; k++) {
        const struct zsk_eie_block *block = row->blocks + k;
        write_words(page + image->load_at, block->load, block->load_count);
        for (uint32_t sample = 0; sample < samples; sample++) {
            int sends = k == row->block_count - 1 && sample == samples - 1;
            uint32_t start = sample + (sends ? layer->samples : 0);
            write_words(page + image->load_at, block->starts + start * block->start_count,
                        block->start_count);
            send_vector(page + image->inputs_at, x + sample * layer->inputs + block->first,
                        block->inputs);
        }
    }
    for (uint32_t k = 0; k < (samples - 1) * row->stride + row->slots; k++) {
        uint64_t item = receive_item(page + image->outputs_at, image->index_bits);
        uint32_t place = item & ((1u << image->index_bits) - 1), slot = place % row->stride;
        if (slot < row->slots && row->order[slot] >= 0)
            y[place / row->stride * layer->outputs + row->order[slot]] =
                (int16_t)(item >> image->index_bits);
    }
}

void zsk_eie_run_loads(const struct zsk_eie_loads *image, uint32_t page, uint32_t samples,
                       const int16_t *x, int16_t *y, int16_t *scratch) {
    for (uint32_t left = image->layer_count; left > 0; left--) {
        const struct zsk_eie_layer *layer = image->layers + image->layer_count - left;
        int16_t *to = left % 2 ? y : scratch;   /* the last layer's are in y */
        for (uint32_t k = 0; k < layer->row_count; k++) {
            const struct zsk_eie_row *row = layer->rows + k;
            write_words(page + image->load_at, row->load, row->load_count);
            for (uint32_t at = 0; at < samples; at += layer->samples)
                run_row(image, layer, row, page, at_most(layer->samples, samples - at),
                        x + at * layer->inputs, to + at * layer->outputs);
        }
        x = to;
    }
}
