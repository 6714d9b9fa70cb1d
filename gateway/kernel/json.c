/* A strict JSON scanner: as strict as msgspec in UTF-8, strings, numbers and depth. */
#include "json.h"
