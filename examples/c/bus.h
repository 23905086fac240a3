/* A system that is simulated: `library` is a compiled model of its Accelerator. */
#ifndef BUS_H
#define BUS_H

#include <stdint.h>

int bus_open(const char *library);      /* 0, or what stderr says */
uint64_t bus_cycles(void);              /* clock cycles since reset */

#endif
