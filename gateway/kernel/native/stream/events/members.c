/* Finds the members of an object whose keys are known: see members.h. */
#include "stream/events/members.h"
#include "json/raw.h"

int read_key(const Key *keys, int count, int place, const char **at, const char *end)
{
    const char *name = *at;
    if (name == end || *name++ != '"')
        return -1;
    for (; place < count; place++) {
        Key key = keys[place];
        if (end - name >= key.size + 2 && name[key.size] == '"' && name[key.size + 1] == ':' &&
            memcmp(name, key.text, (size_t)key.size) == 0) {
            *at = name + key.size + 2;
            return place;
        }
    }
    return -1;
}

const char *read_members(const Key *keys, int count, const char *at, const char *end, Span *found)
{
    int place = 0;
    if (at == end || *at++ != '{')
        return NULL;
    for (;; place++) {
        place = read_key(keys, count, place, &at, end);
        if (place < 0)
            return NULL;
        found[place].value = at;
        at = skip_raw(at, end, RAW_DEPTH);
        if (at == NULL || at == end)
            return NULL;
        found[place].end = at;
        if (*at == '}')
            return at + 1;
        if (*at++ != ',')
            return NULL;
    }
}
