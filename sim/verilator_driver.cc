// Verilator's part of a compiled simulation. `ports.inc` lists the ports: PORT(name, member,
// width) each.

#include <memory>
#include "Vdesign.h"
#include "clock_loop.h"

struct VerilatorDesign : Design {
    VerilatedContext context;
    Vdesign design{&context};

    ~VerilatorDesign() override { design.final(); }

    bool find(const char *name, Port *port) override {
#define PORT(port_name, member, width) \
        if (!strcmp(name, port_name)) { \
            *port = {&design.member, &design.member, width}; \
            return true; \
        }
#include "ports.inc"
        return false;
    }

    void settle() override {
        design.clk = 0;
        design.eval();
    }

    void edge() override {
        design.clk = 1;
        design.eval();
    }
};

static Design *create() { return new VerilatorDesign; }
