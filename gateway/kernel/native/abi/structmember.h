/* The types of members: see Python.h here. */
#ifndef KERNEL_ABI_STRUCTMEMBER_H
#define KERNEL_ABI_STRUCTMEMBER_H

#define T_INT 1
#define T_LONG 2
#define T_DOUBLE 4
#define T_OBJECT 6
#define T_UINT 11
#define T_ULONG 12
#define T_BOOL 14
#define T_OBJECT_EX 16
#define T_LONGLONG 17
#define T_ULONGLONG 18
#define T_PYSSIZET 19
#define READONLY 1

#endif
