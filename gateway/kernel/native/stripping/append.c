/* Members at the end of a request: what `gateway.wire.injection.rewrite` makes of a body that has none
 * of them. The body is JSON, so only its own members are looked at. */
#include "members.h"

#define MAX_MEMBERS 32 /* each key is compared to all others */

typedef struct {
    Slice keys[MAX_MEMBERS];
    size_t count;
} Keys;

/* Whether msgspec writes the key as it stands, and no other one is the same. */
static bool add_key(Keys *keys, Slice key)
{
    if (keys->count == MAX_MEMBERS)
        return false;
    for (size_t place = 0; place < key.size; place++)
        if (key.data[place] >= 0x80)
            return false;
    for (size_t place = 0; place < keys->count; place++)
        if (keys->keys[place].size == key.size &&
            same_bytes(keys->keys[place].data, key.data, key.size))
            return false;
    keys->keys[keys->count++] = key;
    return true;
}

static bool copy_member(Reader *reader, Slice key, Out *out)
{
    const uint8_t *value = reader->at;
    return pass_value(reader) && out_byte(out, '"') && out_put(out, key.data, key.size) &&
           out_text(out, "\":") && out_put(out, value, (size_t)(reader->at - value));
}

/* `members` begin with a comma. */
static bool append(Reader *reader, Slice members, Out *out)
{
    bool first = true, ended;
    Keys keys;
    Slice key;
    keys.count = 0;
    if (!take_byte(reader, '{') || !out_byte(out, '{'))
        return false;
    for (;;) {
        bool before = first;
        if (!next_item(reader, '}', &first, &ended))
            return false;
        if (ended)
            break;
        if ((!before && !out_byte(out, ',')) || !pass_key(reader, &key) || !add_key(&keys, key) ||
            !copy_member(reader, key, out))
            return false;
    }
    return keys.count && at_end(reader) && out_put(out, members.data, members.size) &&
           out_byte(out, '}');
}

static PyObject *append_members(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    PyObject *body, *members;
    char *data, *more;
    Py_ssize_t size, more_size;
    Out out = {0};
    if (!PyArg_ParseTuple(arguments, "SS:append_members", &body, &members) ||
        PyBytes_AsStringAndSize(body, &data, &size) < 0 ||
        PyBytes_AsStringAndSize(members, &more, &more_size) < 0)
        return NULL;
    const uint8_t *text = (const uint8_t *)data;
    Reader reader = {text, text + size};
    bool sure = out_reserve(&out, (size_t)size + (size_t)more_size) &&
                append(&reader, (Slice){(const uint8_t *)more, (size_t)more_size}, &out);
    PyObject *result =
        sure ? PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.size)
             : Py_NewRef(Py_None);
    out_free(&out);
    return result;
}

static PyMethodDef functions[] = {
    {"append_members", append_members, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int append_add(PyObject *module)
{
    return PyModule_AddFunctions(module, functions);
}
