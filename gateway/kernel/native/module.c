/* The module gateway.kernel._native: the parts add what they have. */
#include "kernel.h"

#ifndef KERNEL_BUILT
#define KERNEL_BUILT "unknown"
#endif
#ifndef KERNEL_SOURCES
#define KERNEL_SOURCES ""
#endif

static int add_all(PyObject *module)
{
    KernelState *state = PyModule_GetState(module);
    if (state == NULL)
        return -1;
    if (PyModule_AddStringConstant(module, "BUILT", KERNEL_BUILT) < 0)
        return -1;
    if (PyModule_AddStringConstant(module, "SOURCES", KERNEL_SOURCES) < 0)
        return -1;
    if (stream_add(module, &state->stream) < 0)
        return -1;
    if (record_add(module) < 0)
        return -1;
    if (strip_add(module) < 0)
        return -1;
    if (request_add(module) < 0)
        return -1;
    if (http_add(module) < 0)
        return -1;
    return usage_add(module);
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    KernelState *state = PyModule_GetState(module);
    return state ? stream_traverse(&state->stream, visit, arg) : 0;
}

static int clear(PyObject *module)
{
    KernelState *state = PyModule_GetState(module);
    if (state != NULL)
        stream_clear(&state->stream);
    return 0;
}

static void free_module(void *module)
{
    clear(module);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)add_all},
    {0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "gateway.kernel._native",
    .m_doc = "The kernel in C: see gateway/kernel/interface.py.",
    .m_size = sizeof(KernelState),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = free_module,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
