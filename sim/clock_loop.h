// The host's side of a compiled simulation: the clock, and streams that send and receive. It
// serves any design in any simulator, whose own part is a class below `Design` and `create()`.

#include <cstdint>
#include <cstring>

// Values are little-endian; the bits of their last byte beyond the width are zero.
struct Port {
    void *in;         // the value that settle() takes, if the port is an input
    const void *out;  // the value after settle()
    uint64_t width;   // bits
};

// A design with one clock, which is low between any two calls from outside.
struct Design {
    virtual ~Design() = default;
    virtual bool find(const char *name, Port *port) = 0;  // false if there is no such port
    virtual void settle() = 0;  // with the clock low, everything follows the inputs
    virtual void edge() = 0;    // the clock rises; what is not a register may wait for settle()
};

static Design *create();

struct Stream {
    Port payload, valid, ready;
    uint32_t *items;   // one after another, each in whole 32-bit words
    uint64_t count;    // items to send, or to receive at most
    uint64_t done;     // items that were transferred
    uint64_t *times;   // receivers: the cycle of each item

    uint32_t *item() { return items + done * ((payload.width + 31) / 32); }
    size_t bytes() const { return (payload.width + 7) / 8; }
    void raise(Port &port) { *static_cast<uint8_t *>(port.in) = done < count; }
    bool moves() const {
        return *static_cast<const uint8_t *>(valid.out) & *static_cast<const uint8_t *>(ready.out);
    }
};

// A UART at two pins of a design, seen from the host: eight data bits, no parity, one stop bit.
struct Serial {
    Port rx, tx;             // the design's
    uint64_t divisor;        // cycles of a bit
    uint64_t sending, send_timer;        // bits that are left, the next lowest; cycles of this one
    uint64_t receiving, receive_timer;   // bits that came; cycles to the middle of the next
    uint64_t byte;

    // Returns whether a byte was taken.
    bool send(const uint8_t *next) {
        bool taken = !sending && next;
        if (taken) {
            sending = *next << 1 | 0x200 | 0x400;    // start, data, stop, and a mark of the end
            send_timer = divisor;
        }
        *static_cast<uint8_t *>(rx.in) = sending ? sending & 1 : 1;
        if (sending && !--send_timer) {
            sending = sending >> 1 == 1 ? 0 : sending >> 1;
            send_timer = divisor;
        }
        return taken;
    }

    // Returns whether `byte` is a new one.
    bool receive() {
        bool pin = *static_cast<const uint8_t *>(tx.out) & 1;
        if (!receiving) {
            if (!pin) {
                receiving = 1;
                receive_timer = divisor + divisor / 2;
                byte = 0;
            }
            return false;
        }
        if (--receive_timer)
            return false;
        receive_timer = divisor;
        if (receiving <= 8)
            byte |= static_cast<uint64_t>(pin) << (receiving - 1);
        receiving = receiving == 9 ? 0 : receiving + 1;
        return !receiving && pin;
    }
};

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT Design *zeroskip_create() { return create(); }
EXPORT void zeroskip_destroy(Design *design) { delete design; }
EXPORT bool zeroskip_find(Design *design, const char *name, Port *port) {
    return design->find(name, port);
}
EXPORT void zeroskip_settle(Design *design) { design->settle(); }

EXPORT void zeroskip_tick(Design *design, uint64_t cycles) {
    for (; cycles; cycles--) {
        design->settle();
        design->edge();
    }
    design->settle();
}

// Runs until every stream has moved its items, or until none has moved for `patience` cycles.
// Counts the clock cycles in `now`.
EXPORT void zeroskip_run(Design *design, Stream *senders, uint64_t sender_count,
                         Stream *receivers, uint64_t receiver_count,
                         uint64_t patience, uint64_t *now) {
    Stream *senders_end = senders + sender_count, *receivers_end = receivers + receiver_count;
    for (uint64_t still = 0; still < patience; ++*now) {
        bool finished = true, moved = false;
        for (Stream *s = senders; s != senders_end; s++) {
            finished &= s->done == s->count;
            s->raise(s->valid);
            if (s->done < s->count)
                memcpy(s->payload.in, s->item(), s->bytes());
        }
        for (Stream *r = receivers; r != receivers_end; r++) {
            finished &= r->done == r->count;
            r->raise(r->ready);
        }
        design->settle();
        if (finished)
            return;

        for (Stream *s = senders; s != senders_end; s++)
            if (s->moves()) {
                s->done++;
                moved = true;
            }
        for (Stream *r = receivers; r != receivers_end; r++)
            if (r->moves()) {
                memcpy(r->item(), r->payload.out, r->bytes());
                r->times[r->done++] = *now;
                moved = true;
            }
        still = moved ? 0 : still + 1;
        design->edge();
    }
}

// Runs `cycles` with bytes to and from the pins; returns how many of `in` were taken, and sets
// `made` to how many came to `out`, which has room for one byte in every ten bits.
EXPORT uint64_t zeroskip_serial(Design *design, Serial *line, const uint8_t *in, uint64_t count,
                                uint8_t *out, uint64_t *made, uint64_t cycles) {
    uint64_t taken = 0;
    for (*made = 0; cycles; cycles--) {
        taken += line->send(taken < count ? in + taken : nullptr);
        design->settle();
        if (line->receive())
            out[(*made)++] = line->byte;
        design->edge();
    }
    return taken;
}
