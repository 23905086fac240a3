// The clock loop of a compiled simulation: offers items to streams and takes items from them.
// It knows ports only through CXXRTL's own description of them, so that it serves any design.

#include <cstdint>
#include <cstring>
#include <cxxrtl/capi/cxxrtl_capi.h>

struct Stream {
    cxxrtl_object *payload, *valid, *ready;
    uint32_t *items;   // one after another, each in whole 32-bit words
    uint64_t count;    // items to send, or to receive at most
    uint64_t done;     // items that were transferred
    uint64_t *times;   // receivers: the cycle of each item
};

static size_t words(const cxxrtl_object *object) { return (object->width + 31) / 32; }

// Runs until every receiver has its items, or until no stream has moved for `patience` cycles.
// Counts the clock cycles in `now`.
extern "C" void zeroskip_run(cxxrtl_handle handle, cxxrtl_object *clock,
                             Stream *senders, uint64_t sender_count,
                             Stream *receivers, uint64_t receiver_count,
                             uint64_t patience, uint64_t *now) {
    uint64_t still = 0;
    while (still < patience) {
        bool finished = true;
        for (Stream *s = senders; s != senders + sender_count; s++) {
            finished &= s->done == s->count;
            *s->valid->next = s->done < s->count;
            if (s->done < s->count) {
                size_t size = words(s->payload);
                memcpy(s->payload->next, s->items + s->done * size, 4 * size);
            }
        }
        for (Stream *r = receivers; r != receivers + receiver_count; r++) {
            finished &= r->done == r->count;
            *r->ready->next = r->done < r->count;
        }
        *clock->next = 0;
        cxxrtl_step(handle);
        if (finished)
            return;

        bool moved = false;
        for (Stream *s = senders; s != senders + sender_count; s++)
            if (*s->valid->curr & *s->ready->curr) {
                s->done++;
                moved = true;
            }
        for (Stream *r = receivers; r != receivers + receiver_count; r++)
            if (*r->valid->curr & *r->ready->curr) {
                size_t size = words(r->payload);
                memcpy(r->items + r->done * size, r->payload->curr, 4 * size);
                r->times[r->done++] = *now;
                moved = true;
            }
        still = moved ? 0 : still + 1;
        *clock->next = 1;
        cxxrtl_step(handle);
        ++*now;
    }
}
