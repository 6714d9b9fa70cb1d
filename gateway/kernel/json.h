/* A strict JSON scanner, for stream.c and record.c. */
#ifndef KERNEL_JSON_H
#define KERNEL_JSON_H

#include "kernel.h"

#endif
