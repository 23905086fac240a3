// CXXRTL's part of a compiled simulation. It knows ports only through CXXRTL's own description
// of them.

#include <cxxrtl/capi/cxxrtl_capi.h>
#include "clock_loop.h"

struct CXXRTLDesign : Design {
    cxxrtl_handle handle = cxxrtl_create(cxxrtl_design_create());
    Port clock;

    CXXRTLDesign() { find("clk", &clock); }
    ~CXXRTLDesign() override { cxxrtl_destroy(handle); }

    bool find(const char *name, Port *port) override {
        size_t parts;
        cxxrtl_object *object = cxxrtl_get_parts(handle, name, &parts);
        if (!object || parts != 1)
            return false;
        *port = {object->next, object->curr, object->width};
        return true;
    }

    void settle() override {
        *static_cast<uint8_t *>(clock.in) = 0;
        cxxrtl_step(handle);
    }

    // Every register sees the edge in the first evaluation. Further ones would only bring up to
    // date what follows the registers, and settle() does so with the next inputs.
    void edge() override {
        *static_cast<uint8_t *>(clock.in) = 1;
        cxxrtl_eval(handle);
        cxxrtl_commit(handle);
    }
};

static Design *create() { return new CXXRTLDesign; }
